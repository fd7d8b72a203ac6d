import pytest

from mmada import errors
from mmada.errors import MMaDAError, suggest


@pytest.mark.parametrize(
    ("name", "also"),
    [
        ("InputError", ValueError),
        ("ContextError", errors.InputError),
        ("CheckpointError", ValueError),
        ("TokenizerError", ValueError),
        ("ImageError", ValueError),
        ("MissingDependencyError", ImportError),
    ],
)
def test_every_error_is_one_of_ours_and_of_the_usual_kind(name, also):
    error = getattr(errors, name)
    assert issubclass(error, MMaDAError)
    assert issubclass(error, also)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cosin", "did you mean 'cosine'?"),
        ("liner", "did you mean 'linear'?"),
        ("quite different", "known names are cosine, linear"),
        ("", "known names are cosine, linear"),
    ],
)
def test_suggest(name, sentence):
    assert suggest(name, iter(["linear", "cosine"])) == sentence
