"""Build the sprite sheet and the index of the emoji world from the artists' vector files.

    pip install resvg-py==0.5.0        # and npm, which fetches the three packages below
    python scripts/emoji/build_sprites.py [--packages DIR] [--contact-sheet OUT.png]

    SVG of an emoji -> 256 px -> crop to what is drawn -> square -> 64 px      noto and twemoji, side by side on sprites.png
                       1024 px -> the same crop -> the same square -> 192 px   sprites_large.webp, colours rounded to multiples of 8
    OBJECTS below + emojibase tags + what the pixels say -> objects.json

The table OBJECTS is the hand-made part. A colour is given only where a person would name it in both styles; the script checks it
against the pixels. The outputs are committed, so this runs only when the table changes. Changing the order of the table moves
sprites, changing names moves hold-outs (mmada/worlds/emoji/split.py): a model trained before then has seen some test combinations.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image, ImageDraw

from mmada.worlds.emoji.objects import CATEGORY_PLURALS, LARGE_SPRITE_SIZE, SHEET_COLUMNS, SPRITE_SIZE
from mmada.worlds.emoji.scenes import BACKGROUNDS

OUTPUT = Path(__file__).resolve().parents[2] / "mmada" / "worlds" / "emoji"
ART = {"noto": "@iconify-json/noto@1.2.9", "twemoji": "@iconify-json/twemoji@1.2.5"}
WORDS = "emojibase-data@17.0.0"

# The emojibase tags worth asking about: each fits the emoji that carry it and hardly anything else in this world.
KEYWORDS = """\
puppy kitten bunny grizzly bamboo australia marsupial mane moo pork bacon tortoise antarctica bumblebee citrus sour potassium
berry grape fungus toadstool burger pepperoni pastry caffeine cafe ale cab delivery railway caboose jet plane launch music
carpenter lumber hoop futbol denim formal seat computer phone present password unlock pail sunny blossom drought
"""

# emoji | name | plural, if not name + s | category | colour | clue
# A clue names no other object: it would bring a pair of objects into the text that may be held out.
OBJECTS = """\
🐶 | dog | | animal | | the animal that barks
🐱 | cat | | animal | | the animal that says meow
🐭 | mouse | mice | animal | gray | the small gray animal that loves cheese
🐰 | rabbit | | animal | | the animal with long ears that hops
🦊 | fox | foxes | animal | orange | the clever orange animal of the forest
🐻 | bear | | animal | brown | the brown animal that sleeps all winter
🐼 | panda | | animal | | the black and white animal that eats bamboo
🐨 | koala | | animal | gray | the gray animal that eats eucalyptus leaves
🦁 | lion | | animal | | the king of the animals
🐮 | cow | | animal | | the farm animal that gives milk
🐷 | pig | | animal | pink | the pink farm animal that says oink
🐸 | frog | | animal | green | the green animal that croaks
🐵 | monkey | | animal | brown | the animal that swings from branch to branch
🦄 | unicorn | | animal | | the magic animal with one horn
🐘 | elephant | | animal | gray | the animal with a trunk
🐢 | turtle | | animal | green | the slow animal with a shell and four legs
🐙 | octopus | octopuses | animal | | the sea animal with eight arms
🐟 | fish | fish | animal | blue | the blue animal with fins and scales
🐳 | whale | | animal | | the biggest animal of the sea
🐌 | snail | | animal | | the slow animal that carries its home
🐧 | penguin | | bird | | the black and white bird that cannot fly
🐤 | chick | | bird | yellow | the yellow baby of a hen
🦉 | owl | | bird | brown | the bird that hunts at night
🐝 | bee | | insect | | the insect that makes honey
🦋 | butterfly | butterflies | insect | blue | the insect that was once a caterpillar
🍎 | apple | | fruit | red | the red fruit that keeps the doctor away
🍊 | orange | | fruit | orange | the orange fruit that is pressed for juice
🍋 | lemon | | fruit | yellow | the sour yellow fruit
🍌 | banana | | fruit | yellow | the long yellow fruit that is peeled
🍇 | bunch of grapes | bunches of grapes | fruit | purple | the fruit that wine is made of
🍓 | strawberry | strawberries | fruit | red | the red fruit with tiny seeds outside
🍐 | pear | | fruit | green | the green fruit that is narrow at the top
🥕 | carrot | | vegetable | orange | the long orange vegetable that grows in the ground
🌶️ | chili pepper | | vegetable | red | the hot red vegetable
🥑 | avocado | | food | green | the green food with a big stone
🍄 | mushroom | | thing | | the thing with a red cap that grows in the forest
🧀 | piece of cheese | pieces of cheese | food | | the yellow food with holes
🍔 | hamburger | | food | | the food with a patty in a round bun
🍕 | pizza | | food | | the flat food from Italy with cheese
🍩 | donut | | dessert | | the round dessert with a hole
🍪 | cookie | | dessert | brown | the dessert with chocolate chips
🎂 | cake | | dessert | | the dessert with candles for a birthday
☕ | cup of coffee | cups of coffee | drink | | the hot drink that wakes people up
🍺 | mug of beer | mugs of beer | drink | | the yellow drink with white foam
🚗 | car | | vehicle | red | the red vehicle that a family drives
🚕 | taxi | | vehicle | yellow | the yellow vehicle that people pay to ride
🚌 | bus | buses | vehicle | | the vehicle that takes many people along the road
🚚 | truck | | vehicle | | the vehicle that carries heavy goods
🚂 | train | | vehicle | | the vehicle that runs on rails
✈️ | airplane | | vehicle | | the vehicle that flies with wings
🚀 | rocket | | vehicle | | the vehicle that flies into space
🚢 | ship | | vehicle | | the big vehicle that crosses the ocean
🎸 | guitar | | musical instrument | red | the musical instrument of a rock band
🎻 | violin | | musical instrument | | the musical instrument played with a bow
🥁 | drum | | musical instrument | | the musical instrument that is hit with sticks
🔨 | hammer | | tool | | the tool that drives nails
🔧 | wrench | wrenches | tool | | the tool that turns bolts
🪚 | saw | | tool | | the tool with teeth that cuts boards
⚽ | soccer ball | | ball | | the ball that is kicked into a goal
🏀 | basketball | | ball | orange | the ball that is thrown into a hoop
🏈 | football | | ball | brown | the ball that is not round
👕 | t-shirt | | piece of clothing | blue | the piece of clothing with short sleeves
👗 | dress | dresses | piece of clothing | blue | the piece of clothing for a princess
👖 | pair of jeans | pairs of jeans | piece of clothing | blue | the piece of clothing for the legs
🎩 | top hat | | piece of clothing | black | the tall black piece of clothing for the head
🪑 | chair | | piece of furniture | brown | the piece of furniture for one person to sit on
🛏️ | bed | | piece of furniture | | the piece of furniture to sleep in
🏠 | house | | building | | the building where a family lives
🏰 | castle | | building | | the building where a king lives
📺 | television | | electronic device | | the electronic device that shows movies at home
☎️ | telephone | | electronic device | red | the electronic device that rings when someone calls
💻 | laptop | | electronic device | | the electronic device with a keyboard
🤖 | robot | | thing | | the machine that looks like a person
🎁 | gift | | thing | | the thing that people unwrap
🔔 | bell | | thing | | the thing that goes ding dong
🔑 | key | | thing | | the thing that opens a door
🔒 | lock | | thing | | the thing that keeps a door shut
📕 | book | | thing | red | the thing with pages to read
☂️ | umbrella | | thing | | the thing that keeps people dry in the rain
⌛ | hourglass | hourglasses | thing | | the thing that measures time with sand
🪣 | bucket | | thing | blue | the blue thing that holds water
💣 | bomb | | thing | black | the black thing that explodes
⛄ | snowman | snowmen | thing | | the man made of snow
☀️ | sun | | thing | | the thing that shines by day
⭐ | star | | thing | | the thing with five points in the sky
🌈 | rainbow | | thing | | the thing in the sky with all the colors
🌹 | rose | | flower | red | the red flower with thorns
🌷 | tulip | | flower | pink | the pink flower from Holland
🌻 | sunflower | | flower | | the tall flower that turns to the light
🌵 | cactus | cactuses | plant | green | the plant of the desert
🌴 | palm tree | | plant | | the tall plant on a tropical beach
🌳 | tree | | plant | | the plant that birds nest in
🍁 | maple leaf | maple leaves | plant | | the leaf on the flag of Canada
"""

SHAPE_EMOJI = {"circle": "🔴🟠🟡🟢🔵🟣🟤⚫⚪", "square": "🟥🟧🟨🟩🟦🟪🟫⬛⬜", "heart": "❤🧡💛💚💙💜🤎🖤🤍"}
SHAPE_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")

# Typical values of the colour names in both art styles, to check the table's colours against the pixels.
COLOUR_VALUES = {
    "red": [(221, 46, 68), (244, 67, 54), (190, 25, 49), (198, 40, 40), (255, 60, 10), (216, 40, 0)],
    "orange": [(244, 144, 12), (255, 143, 0), (245, 124, 0), (255, 110, 30)],
    "yellow": [(253, 203, 88), (255, 202, 40), (255, 213, 79), (255, 235, 130), (250, 190, 40), (255, 217, 131)],
    "green": [(119, 178, 85), (67, 160, 71), (124, 179, 66), (62, 114, 29), (166, 211, 136), (192, 202, 51), (0, 200, 83), (92, 145, 59)],
    "blue": [(85, 172, 238), (25, 118, 210), (66, 165, 245), (136, 201, 249), (187, 221, 245), (2, 119, 189), (129, 212, 250)],
    "purple": [(170, 142, 214), (142, 36, 170), (116, 78, 170), (94, 53, 177), (149, 100, 200)],
    "brown": [(193, 105, 79), (138, 75, 56), (102, 33, 19), (141, 95, 78), (121, 85, 72), (160, 100, 60), (217, 158, 130), (200, 140, 90)],
    "pink": [(244, 171, 186), (234, 89, 110), (240, 98, 146), (255, 179, 190), (248, 187, 208), (255, 160, 140)],
    "black": [(41, 47, 51), (66, 66, 66), (33, 33, 33), (20, 20, 20), (84, 84, 84)],
    "white": [(230, 231, 232), (255, 255, 255), (240, 240, 240)],
    "gray": [(153, 170, 181), (102, 117, 127), (158, 158, 158), (189, 189, 189), (120, 144, 156), (176, 190, 197), (132, 150, 160)],
}
MIN_COLOUR_SHARE = 0.3
"""share of an object's pixels that must be nearest to its stated colour, in each style"""

FAINT_CONTRAST, MAX_FAINT_SHARE = 36, 0.6
"""An outline pixel is faint below this difference (of 255, largest channel); an object, if more than this share of its outline is."""


def fetch(directory: Path) -> None:
    """Download and unpack the npm packages into `directory`, one folder each."""
    for package in (*ART.values(), WORDS):
        packed = subprocess.run(["npm", "pack", "--silent", package], cwd=directory, check=True, capture_output=True, text=True)
        with tarfile.open(directory / packed.stdout.strip().splitlines()[-1]) as archive:
            archive.extractall(directory / folder(package), filter="data")


def folder(package: str) -> str:
    return package.removeprefix("@").replace("/", "-").replace("@", "-")


def code_points(emoji: str) -> str:
    """The key of an emoji in the icon sets: its code points without the variation selector."""
    return "-".join(f"{ord(c):x}" for c in emoji if c != "\ufe0f")


class IconSet:
    """SVG sources of one art style."""

    def __init__(self, directory: Path) -> None:
        self.icons = json.loads((directory / "package" / "icons.json").read_text(encoding="utf-8"))
        self.names = json.loads((directory / "package" / "chars.json").read_text(encoding="utf-8"))

    def sprite(self, emoji: str, *, detail: int = 1, size: int = SPRITE_SIZE) -> Image.Image:
        """(size, size) RGBA, cropped to what is drawn at 256 px; fully transparent pixels are zero. detail: what is drawn is so many times as large."""
        name = self.names[code_points(emoji)]
        icon = self.icons["icons"].get(name) or self.icons["icons"][self.icons["aliases"][name]["parent"]]
        width = icon.get("width", self.icons.get("width", 16))
        height = icon.get("height", self.icons.get("height", 16))
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} {height}">'
            f"{icon['body']}</svg>"
        )
        left, top, right, bottom = drawn(svg, 256).getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
        width, height = right - left, bottom - top
        side = max(width, height)
        square = Image.new("RGBA", (detail * side, detail * side))
        large = drawn(svg, detail * 256).crop((detail * left, detail * top, detail * right, detail * bottom))
        square.paste(large, ((side - width) // 2 * detail, (side - height) // 2 * detail))
        pixels = np.array(square.resize((size, size), Image.Resampling.LANCZOS))
        pixels[pixels[..., 3] == 0] = 0
        return Image.fromarray(pixels)


def drawn(svg: str, side: int) -> Image.Image:
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side)))).convert("RGBA")


def rounded(sheet: Image.Image, step: int = 8) -> Image.Image:
    """Colours and alpha as multiples of `step`, which halves the file; what is nearly opaque is opaque, and what cannot be seen is zero."""
    given = np.array(sheet).astype(int)
    pixels = np.minimum(255, np.round(given / step) * step).astype(np.uint8)
    pixels[given[..., 3] < step / 2] = 0
    pixels[..., 3][given[..., 3] > 255 - step / 2] = 255
    pixels[pixels[..., 3] == 0] = 0
    return Image.fromarray(pixels)


def on_a_sheet(pictures: list[Image.Image]) -> Image.Image:
    side = pictures[0].width
    sheet = Image.new("RGBA", (SHEET_COLUMNS * side, -(-len(pictures) // SHEET_COLUMNS) * side))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % SHEET_COLUMNS * side, i // SHEET_COLUMNS * side))
    return sheet


def rows() -> list[dict[str, Any]]:
    """The objects in sheet order: the table, then circles, squares and hearts."""
    found = []
    for line in OBJECTS.splitlines():
        emoji, name, plural, category, colour, clue = (part.strip() for part in line.split("|"))
        if category != "thing" and category not in CATEGORY_PLURALS:
            raise ValueError(f"category {category!r} of {name!r} is unknown; add it to CATEGORY_PLURALS")
        row = {"emoji": emoji, "name": name, "plural": plural or name + "s", "category": category, "colour": colour or None, "clue": clue}
        found.append(row)
    for shape, emojis in SHAPE_EMOJI.items():
        for emoji, colour in zip(emojis, SHAPE_COLOURS, strict=True):
            name = f"{colour} {shape}"
            found.append({"emoji": emoji, "name": name, "plural": name + "s", "category": shape, "colour": colour, "clue": None})
    return found


def colour_share(picture: Image.Image, colour: str) -> float:
    """Share of the opaque pixels whose nearest typical value belongs to `colour`."""
    pixels = np.asarray(picture).reshape(-1, 4)
    solid = pixels[pixels[:, 3] > 200, :3].astype(float)  # (pixels, 3)
    values = np.array([value for values in COLOUR_VALUES.values() for value in values], dtype=float)
    owners = np.array([name for name, values in COLOUR_VALUES.items() for _ in values])
    nearest = ((solid[:, None] - values) ** 2).sum(-1).argmin(-1)
    return float((owners[nearest] == colour).mean())


def faint_share(picture: Image.Image, background: tuple[int, int, int]) -> float:
    """Share of the outline, at the size of a cell, that hardly differs from the background."""
    small = np.asarray(picture.resize((30, 30), Image.Resampling.LANCZOS)).astype(float)
    solid = np.pad(small[..., 3] > 128, 1)
    inner = solid[1:-1, 1:-1] & solid[:-2, 1:-1] & solid[2:, 1:-1] & solid[1:-1, :-2] & solid[1:-1, 2:]
    inner = np.pad(inner, 1)
    deep = inner[1:-1, 1:-1] & inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    outline = small[solid[1:-1, 1:-1] & ~deep][:, :3]  # two pixels wide
    return float((np.abs(outline - background).max(-1) < FAINT_CONTRAST).mean())


def contact_sheet(pictures: list[Image.Image], names: list[str]) -> Image.Image:
    """All sprites, large on white and small on the six backgrounds, with their names."""
    columns, width, height = 12, 130, 146
    sheet = Image.new("RGB", (columns * width, -(-len(names) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(names):
        x, y = i % columns * width, i // columns * height
        for j, picture in enumerate(pictures[2 * i : 2 * i + 2]):
            sheet.paste(picture, (x + 65 * j, y), picture)
            small = picture.resize((20, 20), Image.Resampling.LANCZOS)
            for k, colour in enumerate(BACKGROUNDS.values()):
                corner = (x + 65 * j + 21 * (k % 3), y + 66 + 21 * (k // 3))
                draw.rectangle((*corner, corner[0] + 20, corner[1] + 20), fill=colour)
                sheet.paste(small, corner, small)
        draw.text((x + 2, y + 112), name, fill=0)
    return sheet


def build(packages: Path, sheet_path: Path | None) -> None:
    sets = [IconSet(packages / folder(package)) for package in ART.values()]
    words = json.loads((packages / folder(WORDS) / "package" / "en" / "data.json").read_text(encoding="utf-8"))
    tagged = {code_points(record["emoji"]): record for record in words}
    table = rows()
    pictures = [icons.sprite(row["emoji"]) for row in table for icons in sets]

    index, problems, askable = [], [], set(KEYWORDS.split())
    for i, row in enumerate(table):
        both = pictures[2 * i : 2 * i + 2]
        if row["colour"]:
            shares = [colour_share(picture, row["colour"]) for picture in both]
            if min(shares) < MIN_COLOUR_SHARE:
                problems.append(f"{row['name']} is {row['colour']} in only {min(shares):.0%} of its pixels")
        faint = [name for name, value in BACKGROUNDS.items() if max(faint_share(picture, value) for picture in both) > MAX_FAINT_SHARE]
        if len(faint) == len(BACKGROUNDS):
            problems.append(f"{row['name']} can be seen on no background")
        facts = {key: value for key, value in row.items() if key != "emoji"}
        index.append(facts | {"keywords": [tag for tag in tagged[code_points(row["emoji"])]["tags"] if tag in askable], "faint_on": faint})
    if problems:
        raise SystemExit("\n".join(problems))

    on_a_sheet(pictures).save(OUTPUT / "sprites.png", optimize=True)
    large = [icons.sprite(row["emoji"], detail=4, size=LARGE_SPRITE_SIZE) for row in table for icons in sets]
    rounded(on_a_sheet(large)).save(OUTPUT / "sprites_large.webp", lossless=True, method=4, quality=80)
    lines = ",\n".join(json.dumps(record) for record in index)
    (OUTPUT / "objects.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(index)} objects, sprites.png {(OUTPUT / 'sprites.png').stat().st_size:,} bytes")
    if sheet_path is not None:
        contact_sheet(pictures, [row["name"] for row in table]).save(sheet_path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--packages", type=Path, help="folder with the unpacked npm packages; fetched into a temporary one otherwise")
    parser.add_argument("--contact-sheet", type=Path, help="also write a picture of all sprites, to be looked at")
    arguments = parser.parse_args()
    if arguments.packages is not None:
        build(arguments.packages, arguments.contact_sheet)
        return
    with tempfile.TemporaryDirectory() as directory:
        fetch(Path(directory))
        build(Path(directory), arguments.contact_sheet)


if __name__ == "__main__":
    main()
