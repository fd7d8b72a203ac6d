import json
import shutil

import pytest
import torch
from PIL import Image

from mmada.errors import ImageError, InputError
from mmada.hub.networks import load_image_tokenizer, save_image_tokenizer
from mmada.image import ImageTokenizerConfig, to_images, to_pixels
from mmada.image.quantizer import sign, sign_table


def random_pixels(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class TestGolden:
    """The numbers of the published implementation."""

    @torch.no_grad()
    def test_encoder(self, golden_tokenizer, golden):
        z = golden_tokenizer.latent(golden["pixel_values"])
        torch.testing.assert_close(z, golden["latent"], atol=1e-4, rtol=1e-4)
        assert torch.equal(sign(z), golden["quantized"])
        codes = golden_tokenizer.encode(golden["pixel_values"])
        assert torch.equal(codes.flatten(1), golden["codes"])
        assert torch.equal(golden_tokenizer.quantize.signs(codes), golden["quantized"])

    def test_recorded_weights_without_tables_load_from_a_directory(self, golden_dir, golden, golden_tokenizer, tmp_path):
        save_image_tokenizer(golden_tokenizer, tmp_path)
        shutil.copy(golden_dir / "image_tokenizer.safetensors", tmp_path / "model.safetensors")
        loaded = load_image_tokenizer(tmp_path)
        assert torch.equal(loaded.quantize.embedding, sign_table(loaded.num_bits))
        assert torch.equal(loaded.encode(golden["pixel_values"]).flatten(1), golden["codes"])

    @torch.no_grad()
    def test_decoder(self, golden_tokenizer, golden):
        grid = golden["latent"].shape[2:]
        pixels = golden_tokenizer.decode(golden["codes"].unflatten(1, grid))
        torch.testing.assert_close(pixels, golden["reconstruction"], atol=1e-3, rtol=0)

    @torch.no_grad()
    def test_training_pass(self, golden_tokenizer, golden):
        out = golden_tokenizer(golden["pixel_values"])
        torch.testing.assert_close(out.quantizer_loss, golden["quantizer_loss"], atol=1e-5, rtol=0)
        torch.testing.assert_close(out.entropy_loss, golden["entropy_loss"], atol=1e-5, rtol=0)
        torch.testing.assert_close(out.pixels, golden["reconstruction"], atol=1e-3, rtol=0)
        assert torch.equal(out.codes.flatten(1), golden["codes"])


class TestSizes:
    def test_properties(self, tokenizer):
        assert (tokenizer.factor, tokenizer.num_bits, tokenizer.codebook_size) == (4, 6, 64)
        assert ImageTokenizerConfig().encoder_ch_mult == (1, 2, 2, 4, 4)

    @pytest.mark.parametrize("grid", [(1, 2), (2, 5), (5, 2), (4, 4)])
    def test_every_multiple_of_the_factor(self, tokenizer, grid):
        height, width = grid[0] * 4, grid[1] * 4
        codes = tokenizer.encode(random_pixels(1, 3, height, width))
        assert codes.shape == (1, *grid)
        assert codes.dtype == torch.int64
        assert tokenizer.decode(codes).shape == (1, 3, height, width)

    @pytest.mark.parametrize(("size", "nearest"), [((30, 41), "32x40"), ((1, 8), "4x8"), ((0, 8), "4x8")])
    def test_other_sizes_name_the_nearest(self, tokenizer, size, nearest):
        with pytest.raises(ImageError, match=rf"{size[0]}x{size[1]}.*factor=4.*{nearest}"):
            tokenizer.encode(torch.zeros(1, 3, *size))

    def test_two_in_a_batch_equal_each_alone(self, tokenizer):
        pixels = random_pixels(2, 3, 12, 20)
        together, alone = tokenizer.latent(pixels), torch.cat([tokenizer.latent(row[None]) for row in pixels])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
        codes = tokenizer.encode(pixels)
        assert torch.equal(codes, torch.cat([tokenizer.encode(row[None]) for row in pixels]))
        decoded = torch.cat([tokenizer.decode(row[None]) for row in codes])
        torch.testing.assert_close(tokenizer.decode(codes), decoded, atol=1e-5, rtol=1e-4)

    def test_pixels_of_another_kind_are_refused(self, tokenizer):
        for wrong in (torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
            with pytest.raises(InputError, match="floating point"):
                tokenizer.encode(wrong)

    def test_codes_of_another_kind_are_refused(self, tokenizer):
        for wrong in (torch.zeros(1, 6, dtype=torch.int64), torch.zeros(1, 2, 3), torch.zeros(1, 0, 3, dtype=torch.int64)):
            with pytest.raises(InputError, match="int64 of shape"):
                tokenizer.decode(wrong)

    @pytest.mark.parametrize("wrong", [-1, 64])
    def test_codes_outside_the_codebook_are_refused(self, tokenizer, wrong):
        codes = torch.zeros(1, 2, 2, dtype=torch.int64)
        codes[0, 1, 1] = wrong
        with pytest.raises(InputError, match=f"{wrong}.*codebook from 0 to 63"):
            tokenizer.decode(codes)


class TestPictures:
    def test_pictures_are_fitted_and_encoded(self, tokenizer, tmp_path):
        wide, tall = Image.new("RGB", (50, 20), "red"), Image.new("RGBA", (20, 50), (0, 0, 255, 90))
        tall.save(tmp_path / "tall.png")
        codes = tokenizer.encode_images([wide, tmp_path / "tall.png"], size=(12, 16), mode="pad")
        assert codes.shape == (2, 3, 4)
        images = tokenizer.decode_images(codes)
        assert [(image.size, image.mode) for image in images] == [((16, 12), "RGB")] * 2
        assert images[0].tobytes() == to_images(tokenizer.decode(codes))[0].tobytes()

    def test_without_a_size_pictures_stay_as_they_are(self, tokenizer):
        image = Image.effect_mandelbrot((20, 12), (-3, -2.5, 2, 2.5), 50).convert("RGB")
        assert torch.equal(tokenizer.encode_images([image]), tokenizer.encode(to_pixels([image])))
        with pytest.raises(ImageError, match=r"nearest size is 12x20.*size=\(12, 20\)"):
            tokenizer.encode_images([Image.new("RGB", (21, 12))])

    @pytest.mark.parametrize("one", ["image.png", b"bytes", Image.new("RGB", (4, 4))])
    def test_a_single_picture_is_not_a_list(self, tokenizer, one):
        with pytest.raises(InputError, match="give a list"):
            tokenizer.encode_images(one)


class TestConfig:
    def test_json_round_trip(self, tokenizer):
        again = ImageTokenizerConfig.from_dict(json.loads(json.dumps(tokenizer.config.to_dict())))
        assert again.encoder_shape == tokenizer.config.encoder_shape
        assert again.decoder_shape == tokenizer.config.decoder_shape

    def test_networks_must_agree_on_the_number_of_levels(self):
        with pytest.raises(InputError, match="number of levels"):
            ImageTokenizerConfig(encoder_ch_mult=(1, 1), encoder_num_res_blocks=(1, 1))

    def test_flat_lists_point_to_symmetric(self):
        with pytest.raises(InputError, match="symmetric"):
            ImageTokenizerConfig.from_dict({"ch_mult": (1, 2)})


class TestTraining:
    def test_gradients_reach_both_networks_through_the_signs(self, tokenizer):
        pixels = random_pixels(2, 3, 8, 12)
        out = tokenizer(pixels)
        ((out.pixels - pixels) ** 2).mean().backward()
        without = [name for name, p in tokenizer.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not without
        assert tokenizer.encoder.conv_in.weight.grad.abs().sum() > 0

    @pytest.mark.parametrize("loss", ["quantizer_loss", "entropy_loss"])
    def test_quantiser_losses_train_the_encoder_alone(self, tokenizer, loss):
        getattr(tokenizer(random_pixels(2, 3, 8, 12)), loss).backward()
        assert tokenizer.encoder.conv_in.weight.grad.abs().sum() > 0
        assert tokenizer.decoder.conv_in.weight.grad is None

    def test_a_fresh_tokenizer_learns_one_batch(self, tokenizer):
        pixels = random_pixels(2, 3, 8, 8)
        optimizer = torch.optim.Adam(tokenizer.parameters(), lr=5e-3)
        errors = []
        for _ in range(30):
            out = tokenizer(pixels)
            errors.append(((out.pixels - pixels) ** 2).mean())
            optimizer.zero_grad()
            (errors[-1] + out.quantizer_loss + out.entropy_loss).backward()
            optimizer.step()
        assert errors[-1] < 0.7 * errors[0]
