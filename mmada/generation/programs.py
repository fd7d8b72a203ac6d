"""Each kind of request is a small program: what it asks the engine for, in order, and what it makes of it.

    chat    codes of its pictures, one fill                                      -> Answer
    fill    one fill                                                             -> Answer
    draw    codes of its picture, a thought, a fill of n rows, their ranking     -> Drawing      each step only where it is wanted
    edit    codes of its sources, one fill                                       -> Drawing
    parallel  codes of its sources, one fill of two fields                       -> Drawing, with the answer

A program is a generator. Its local variables are the request's state; it never touches the model.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TypeVar, get_args

from mmada.canvas import Canvas
from mmada.errors import InputError
from mmada.generation.planner import Planner, seed_of
from mmada.generation.requests import (
    Answer,
    ChatRequest,
    Drawing,
    DrawRequest,
    EditRequest,
    FillRequest,
    ParallelRequest,
    Request,
    Result,
)
from mmada.generation.speller import corrections_said
from mmada.generation.steps import BegunProgram, Fill, InitCodes, Program, Rank, SequenceState, Work
from mmada.sampling import Ranking, SamplingParams

__all__ = ["begin", "chat", "complete", "draw", "edit", "fill", "parallel", "program_of"]


_T = TypeVar("_T")
_TRIES = 2
"""Plans that are made of each wording of a prompt, with other seeds, before it is refused."""


def program_of(request: Request, planner: Planner) -> Program[Result]:
    """The program of a request, as the checkpoint is best used. Raises InputError for anything else than a request."""
    if isinstance(request, ChatRequest):
        return chat(request, planner)
    if isinstance(request, FillRequest):
        return fill(request, planner)
    if isinstance(request, DrawRequest):
        return draw(request, planner)
    if isinstance(request, EditRequest):
        return edit(request, planner)
    if isinstance(request, ParallelRequest):
        return parallel(request, planner)
    raise InputError(f"request is of type {type(request).__name__}; give {', '.join(kind.__name__ for kind in get_args(Request))}")


def begin(program: Program[_T]) -> BegunProgram[_T]:
    """Run a program to the first thing that it asks for, in the caller's thread. Raises what it raises."""
    try:
        return BegunProgram(program, asked=next(program))
    except StopIteration as stop:
        return BegunProgram(program, result=stop.value)


def chat(request: ChatRequest, planner: Planner) -> Program[Answer]:
    """Answer a conversation."""
    num_new = planner.check_chat(request)
    codes, warning = (yield Work(partial(planner.seen, request.images, request.seed))) if request.images else ([], None)
    params = planner.params_of(request)
    fill = _text(planner, planner.chat_canvas(request, num_new, codes, params), params, request.seed)
    (row,) = yield replace(fill, guide=planner.guide(request, params))
    answer, corrections = planner.answer(row), planner.reader.corrections(request)
    doubt = planner.reader.doubt_of(request, answer.thinking)
    return replace(answer, warning=" ".join(filter(None, (corrections_said(corrections), warning, doubt))) or None, corrections=corrections)


def fill(request: FillRequest, planner: Planner) -> Program[Answer]:
    """Fill the holes of a text."""
    (row,) = yield _text(planner, planner.fill_canvas(request), planner.params_of(request), request.seed)
    return planner.completion(request, row)


def complete(canvas: Canvas, params: SamplingParams, seed: int) -> Program[SequenceState]:
    """Fill a canvas that somebody else made, and return the row as it is."""
    (row,) = yield Fill(canvas=canvas, params=params, seeds=(seed,))
    return row  # type: ignore[no-any-return]


def draw(
    request: DrawRequest, planner: Planner, *, thinking_params: SamplingParams | None = None, max_thinking_tokens: int | None = None
) -> Program[Drawing]:
    """Think about a drawing if that is wanted, draw it as often as is asked, and keep the likeliest.

    thinking_params      how the thought is written; None: as the checkpoint has it
    max_thinking_tokens  room for the thought; None: as the checkpoint has it
    """
    planner.check_draw(request)
    # With a picture to start from, this is work: it is encoded.
    init: InitCodes = planner.init_codes(request) if request.image is None else (yield Work(partial(planner.init_codes, request)))
    given = request
    drawing = _drawing(planner, given, given.prompt, init)  # first of all: what is too long is not read word for word
    request = planner.reader.read(given)
    if request is not given:
        drawing = _drawing(planner, request, request.prompt, init)
    unknown, corrections = planner.reader.unknown_in(request), planner.reader.corrections(given)
    if (problem := planner.reader.objection(request)) is not None:
        return planner.refused(given, init, problem)
    num_forwards, warning = 0, planner.doubts_of_size(init)
    if planner.thinks(request):
        if request.image is not None:
            raise InputError("think=True cannot start from an image; draw without thinking")
        params = thinking_params or planner.thinking_params()
        for attempt, asked in enumerate(_TRIES * planner.reader.wordings(request)):
            canvas, later = planner.thinking_canvas(asked, init, max_thinking_tokens)
            fill = _text(planner, canvas, params, request.seed if attempt == 0 else seed_of(request.seed, -attempt))
            (thought,) = yield replace(fill, num_later=drawing.num_open)
            num_forwards += thought.num_forwards
            said = planner.thought(thought)
            problem = planner.reader.objection(request, said.answer)
            if problem is None:
                own = said.thinking if asked is request else None
                # A plan of other words has not seen what they left out.
                if asked is not request and planner.reader.asks_for_more(request, unknown):
                    canvas, _ = planner.thinking_canvas(request, init, max_thinking_tokens)
                    (second,) = yield replace(_text(planner, canvas, params, request.seed), num_later=drawing.num_open)
                    num_forwards, own = num_forwards + second.num_forwards, planner.thought(second).thinking
                unknown = planner.reader.confirmed(request, unknown, own)  # all of them without a plan of the prompt itself
                break
        if problem is not None:
            return planner.refused(given, init, problem, thinking=said.thinking, num_forwards=num_forwards)
        prompt = said.answer or said.thinking or request.prompt
        if later is not None:  # a joint row: the picture is drawn in the row that the thought was written in
            drawing = _drawing(planner, request, prompt, init, canvas=replace(thought.canvas, fields=(later,)))
        elif planner.fits(drawn := planner.drawing_canvas(prompt, init)):
            drawing = _drawing(planner, request, prompt, init, canvas=drawn)
        else:  # a thought that went on and on: the prompt is drawn as it was given, and that is said
            long = (
                f"the thought needs a row of {len(drawn)} tokens and the model's context has {planner.context}, so the prompt was drawn "
                "as it was given; lower max_thinking_tokens or the size of the drawing"
            )
            warning = " ".join(filter(None, (warning, long)))
        drawing = replace(drawing, thinking=said.thinking)
    if unknown and planner.lexicon is not None:
        warning = " ".join(filter(None, (planner.lexicon.sentence(unknown), warning)))
    warning = " ".join(filter(None, (corrections_said(corrections), warning))) or None
    rows: tuple[SequenceState, ...] = yield drawing
    best = 0
    if len(rows) > 1:
        ranking: Ranking = yield Rank(tuple(row.canvas for row in rows))
        best, num_forwards = ranking.best, num_forwards + ranking.num_forwards
    row = rows[best]
    codes = planner.codes(init, row.ids)
    image = yield Work(partial(planner.render, init, codes))
    return Drawing(
        image=image,
        codes=codes,
        thinking=drawing.thinking,
        prompt=drawing.prompt,
        num_forwards=num_forwards + row.num_forwards,
        trace=row.trace,
        seed=drawing.seeds[best],
        warning=warning,
        unknown=unknown,
        corrections=corrections,
    )


def edit(request: EditRequest, planner: Planner) -> Program[Drawing]:
    """Draw by an instruction and source images."""
    planner.check_edit(request)
    sources, init = yield Work(partial(planner.sources, request.images, request.size, request.seed))
    fill = planner.edit_fill(request, sources, init)
    (row,) = yield planner.checked(fill)
    return (yield from _rendered(planner, fill, init, row))


def parallel(request: ParallelRequest, planner: Planner) -> Program[Drawing]:
    """Write and draw in the same passes."""
    planner.check_edit(request)
    sources, init = yield Work(partial(planner.sources, request.images, request.size, request.seed))
    fill = planner.parallel_fill(request, sources, init)
    (row,) = yield planner.checked(fill)
    drawing = yield from _rendered(planner, fill, init, row)
    return replace(drawing, answer=planner.answer(row, fill.num_text))


def _rendered(planner: Planner, fill: Fill, init: InitCodes, row: SequenceState) -> Program[Drawing]:
    codes = planner.codes(init, row.ids[fill.num_text :])
    image = yield Work(partial(planner.render, init, codes))
    return Drawing(
        image=image,
        codes=codes,
        thinking=None,
        prompt=fill.prompt,
        num_forwards=row.num_forwards,
        trace=row.trace,
        seed=fill.seeds[0],
        warning=planner.doubts_of_size(init),
    )


def _text(planner: Planner, canvas: Canvas, params: SamplingParams, seed: int) -> Fill:
    negatives = (planner.prompts.blank(canvas),) if params.guidance_scale else ()
    return planner.checked(Fill(canvas=canvas, params=params, seeds=(seed_of(seed, 0),), negatives=negatives))


def _drawing(planner: Planner, request: DrawRequest, prompt: str, init: InitCodes, *, canvas: Canvas | None = None) -> Fill:
    """The fill of a drawing; its unconditional row drops the prompt and any thinking."""
    params = planner.image_params(request, init)
    if request.negative_prompt and not params.guidance_scale:
        raise InputError(
            f"negative_prompt={request.negative_prompt!r} is what guidance leads away from, and guidance_scale is 0; "
            "give guidance_scale=2, or leave it out"
        )
    fill = Fill(
        canvas=planner.drawing_canvas(prompt, init) if canvas is None else canvas,
        params=params,
        seeds=tuple(seed_of(request.seed, i) for i in range(request.best_of)),
        negatives=(planner.drawing_canvas(request.negative_prompt, init),) if params.guidance_scale else (),
        init=init,
        prompt=prompt,
    )
    return planner.checked(fill)
