"""Forests on other machines: push, pull and list them by URL.

A remote forest has the folders of a forest, and beside the files of each model a manifest:

    forest.json                     what all its models share: architecture, tokenizer
    elms/<name>/manifest.json       the files of the ELM with sha256 and size, and its card
    elms/<name>/<id>/<file>         the files; the id is a hash of their names, sizes and sums
    averages/<name>/…               the same of an average; students/ and moes/ alike

A model is there once its manifest is. That is written last, and only where none stands (or, of an
average that is replaced, where the one stands that was read): so of two pushers one wins, and since
the id is of the content, neither has written into the files of the other.

urls      which URLs there are, and what each needs
places    one of them, opened: `Local` (file://) or `Bucket` (fsspec)
manifest  what a model consists of, checked, since it comes from outside
parcel    what travels of a model: all of it, or its difference from its parents
push, pull, entering, listing     what the verbs do
hub       a model as a repository of the Hugging Face Hub
"""

from btm.interop.remote.listing import rows
from btm.interop.remote.pull import Pulled, pull
from btm.interop.remote.pull import preview as pull_preview
from btm.interop.remote.push import Pushed, push
from btm.interop.remote.push import preview as push_preview

__all__ = ["Pulled", "Pushed", "pull", "pull_preview", "push", "push_preview", "rows"]
