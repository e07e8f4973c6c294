"""Triton's interpreter without what it does again at each call: two fifths of the time of our kernels under it."""

from functools import cache

from triton import language
from triton.runtime import interpreter


@cache
def _languages(function):
    """Which modules of the language a kernel, or a function of one, refers to."""
    return {name for name, value in function.__globals__.items() if value is language or value is language.core}


def replace_language_once():
    """Have the functions of `triton.language` replaced once for a kernel, not for each function that it calls.

    For each call of a function of ours the interpreter looks through the whole language, and finds it replaced. A
    version of Triton without these names is left as it is.
    """
    if not (hasattr(interpreter, "_patch_lang") and hasattr(interpreter, "_LangPatchScope")):
        return
    replace, replaced = interpreter._patch_lang, set()

    def once(function):
        if _languages(function) <= replaced:
            return interpreter._LangPatchScope()  # of a function that is called: nothing to take back
        scope = replace(function)
        replaced.update(_languages(function))
        restore = scope.restore

        def restored():
            replaced.clear()
            restore()

        scope.restore = restored
        return scope

    interpreter._patch_lang = once
