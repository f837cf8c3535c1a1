"""Finds the model among the tensors of a file: the one subtree of names that fits a format.

Training scripts put weights into entries of nested dicts, add a prefix for each wrapper around the
model, and save projection heads, an optimizer and a second set of weights beside it. Every place
where a format's patch embedding lies is looked at; what is outside of the one that fits stays.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache

from parity.choice import Choice, Subtree
from parity.formats.format import Format, Given
from parity.formats.table import Line
from vit_spec import ViTConfig
from vit_spec.names import unknown_name
from vit_spec.strict_json import shown

TRANSPARENT = re.compile(
    r"(?:^|(?<=[./]))(?:_orig_mod|_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module"
    r"|_forward_module)[./]"
)
"""Wrappers of `torch.compile`, FSDP, activation checkpointing and Lightning, anywhere in a name."""
OPTIMIZER = re.compile(r"opt/(?!target/)")
"""Where big_vision keeps the moments, numbered and not named."""
ROOTS = ("params/", "opt/target/")
"""Where the programs of Google keep parameters: what is said of a part of them is said below."""
CHUNK = re.compile(r"(?<![^.])blocks\.\d+\.(\d+)\.")  # of DINOv2, blocks.CHUNK.BLOCK
MOMENTS = re.compile(
    r"(optimi[sz]er|optim)s?(_states?|_state_dict)?|opt_states?|mu|nu|exp_avg\w*|max_exp_avg\w*"
    r"|momentum_buffer|trace|grad_ema|param_states"
)
"""Parts of names under which an optimizer keeps as many tensors as the model has."""
FIRST = "patch_embed.proj.weight"
MOST = 32  # sets of weights in one file
ALIKE = 0.9  # of the tensors of two sets of one model
PREFERRED = (  # of several sets of weights: a part of their names, and who takes that one
    ("state_dict_ema", "as timm does"),
    ("model_ema", "as timm does"),
    ("teacher", "as in the evaluation of DINO"),
    ("base_encoder", "as in the evaluation of MoCo v3"),
    (r"(.*_)?ema(_.*)?|.*averaged?(_.*)?|(.*_)?swa(_.*)?|shadow(_params)?", "the moving average"),
)


def seen(given: Given, subtree: Subtree) -> Given:
    """What a checkpoint says of itself, where the subtree is all of the model."""
    shapes = {name: given.shapes[place] for name, place in subtree.names.items()}
    return replace(given, shapes=shapes, around=subtree.around)


def unwrapped(name: str) -> str:
    """A name without the wrappers that may be anywhere in it."""
    return TRANSPARENT.sub("", name)


def found(
    given: Given, entries: Mapping[str, str], forms: Sequence[Format], choice: Choice
) -> list[Subtree]:
    """The places in a file that fit a format and the choice, each with the formats that fit.

    Of a single format the names decide, of several also what `Format.matches` says. `entries` are
    the dicts that tensors are in. Raises `ValueError` for a choice that nothing in the file has.
    """
    tree = _Tree(given, entries, choice)
    sure = len(forms) > 1
    places: dict[str, list[str]] = {}
    for form in forms:
        for path in tree.paths(form, sure=sure):
            places.setdefault(path, []).append(form.name)
    chosen = [path for path in places if tree.is_chosen(path)]
    if not chosen:  # damaged, of no format, or not where the choice says
        path = tree.said()
        whole = tree.given(path)
        names = [f.name for f in forms if not sure or f.matches(whole)]
        places, chosen = {path: names}, [path] if names or path else []
    tree.check_patterns(chosen)
    return [tree.subtree(path, tuple(places[path])) for path in chosen]


def one(subtrees: Sequence[Subtree], given: Given, *, where: str) -> Subtree:
    """The one that is taken, with the others as its rivals.

    Raises `ValueError` that lists all if nothing says which.
    """
    if len(subtrees) == 1:
        return subtrees[0]
    ranks = [_rank(subtree, subtrees) for subtree in subtrees]
    best = min(ranks)
    if best < len(PREFERRED) and ranks.count(best) == 1 and _alike(subtrees, given):
        chosen = subtrees[ranks.index(best)]
        others = tuple(subtree for subtree in subtrees if subtree is not chosen)
        return replace(chosen, reason=PREFERRED[best][1], rivals=others)
    ways = "; ".join(f"{s.option} takes {s.called} ({len(s.names)} tensors)" for s in subtrees)
    raise ValueError(f"{where} has {len(subtrees)} sets of weights, so say which: {ways}")


def nearest(given: Given, entries: Mapping[str, str], forms: Sequence[Format]) -> list[Subtree]:
    """The places whose names are those of a format that more must be said of, best first."""
    tree, scored = _Tree(given, entries, Choice()), []
    for form in forms:
        for path in tree.paths(form, sure=False):
            lacking, held = tree.score(form, path)
            if lacking * 4 <= held:
                scored.append((lacking, -held, path, form.name))
    best = min(scored, default=(0, 0))[:2]
    return [tree.subtree(p, (name,)) for *score, p, name in scored if tuple(score) == best]


class _Tree:
    """The names of a file, and where formats lie among them."""

    def __init__(self, given: Given, entries: Mapping[str, str], choice: Choice) -> None:
        self._given, self._choice = given, choice
        short = {name: unwrapped(name) for name in given.shapes}
        count = Counter(short.values())
        short = {name: to if count[to] == 1 else name for name, to in short.items()}
        self._all = [*short.values()]
        self._names = {to: name for name, to in short.items() if not self._drops(to)}
        self._entries = {
            to: unwrapped(f"{entries[name]}.")[:-1]
            for name, to in short.items()
            if entries.get(name)
        }
        self._views: dict[str, Given] = {}
        self._places: dict[str, dict[str, str]] = {}
        self._own: set[str] = set()

    def paths(self, form: Format, *, sure: bool) -> list[str]:
        """Where a format's names begin, if `sure` only where it says so itself."""
        paths: dict[str, list[str]] = {}
        for path, tensor in self._anchored(form):
            if not sure or form.matches(self.given(path)):
                paths.setdefault(tensor, []).append(path)
        if len(paths) > MOST:
            raise ValueError(f"there are {len(paths)} sets of weights, more than {MOST}")
        return [self._best(form, group) for group in paths.values()]

    def score(self, form: Format, path: str) -> tuple[int, int]:
        """How many names of a format are missing under a path, and how many are there."""
        there = form.places(self.given(path)).keys()
        scores = [(len(names - there), len(names & there)) for names in _names(form)]
        return min(scores, key=lambda score: (score[0], -score[1]))

    def is_chosen(self, path: str) -> bool:
        """Whether a path is what the choice says."""
        entry, prefix = self._choice.entry, self._choice.prefix
        below = path.removeprefix(_ended(self._entry(path)))
        rest = path
        if entry is not None:
            start = unwrapped(_ended(entry, path))
            if not path.startswith(start):
                return False
            rest = path.removeprefix(start)
        if prefix is None:
            return True
        ended = unwrapped(_ended(prefix, path))
        return ended in (rest, below) or rest in (root + ended for root in ROOTS)

    def said(self) -> str:
        """The path that the choice says. Raises `ValueError` if no name has it."""
        entry, prefix = self._choice.entry, self._choice.prefix
        like = next(iter(self._names), "")
        path = unwrapped(_ended(entry or "", like) + _ended(prefix or "", like))
        if not self._names:
            raise ValueError("leave_out leaves no tensor of the file")
        if any(name.startswith(path) for name in self._names):
            return path
        first = {re.split("[./]", name)[0] for name in self._names}
        known = sorted({*first, *self._entries.values()})
        kind = "prefix" if entry is None else "entry"
        raise ValueError(unknown_name(kind, path.rstrip("./"), known))

    def subtree(self, path: str, formats: tuple[str, ...]) -> Subtree:
        """The tensors under a path."""
        entry, names = self._entry(path), self._view(path)
        inside = set(names.values())
        return Subtree(
            entry=entry,
            prefix=path.removeprefix(_ended(entry)),
            names=names,
            around=tuple(name for name, place in self._names.items() if place not in inside),
            own=path == "" or path in self._own,
            formats=formats,
        )

    def given(self, path: str) -> Given:
        """What the file says, where the tensors under a path are all of the model."""
        if path not in self._views:
            self._views[path] = seen(self._given, self.subtree(path, ()))
        return self._views[path]

    def check_patterns(self, paths: Sequence[str]) -> None:
        """Raises `ValueError` for patterns that leave nothing out, all at once."""
        names = [*self._all, *(n.removeprefix(p) for p in paths for n in self._all)]
        idle = [
            pattern
            for pattern in self._choice.leave_out
            if not any(fnmatchcase(name, pattern) for name in names)
        ]
        if idle:
            patterns = ", ".join(f"leave_out={shown(pattern)}" for pattern in idle)
            raise ValueError(f"{patterns}: no tensor of the file has such a name")

    def _drops(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._choice.leave_out)

    def _entry(self, path: str) -> str:
        """The dicts that a path names, without the first part of the names in the last one."""
        inside = next((name for name in self._names if name.startswith(path)), "")
        entry = self._entries.get(inside, "")
        while entry and not path.startswith(f"{entry}."):
            entry = entry.rpartition(".")[0]
        return entry

    def _view(self, path: str) -> dict[str, str]:
        if path not in self._places:
            below = {n[len(path) :]: to for n, to in self._names.items() if n.startswith(path)}
            below = {name: place for name, place in below.items() if not self._drops(name)}
            short = {name: CHUNK.sub(r"blocks.\1.", name) for name in below}
            whole = len(set(short.values())) == len(short)
            self._places[path] = {short[n] if whole else n: place for n, place in below.items()}
        return self._places[path]

    def _anchored(self, form: Format) -> Iterator[tuple[str, str]]:
        """The paths above a format's patch embedding, in the order of the file, and its name."""
        pairs: dict[tuple[str, str], None] = {}
        ends = _anchors(form)
        for name, place in self._names.items():
            if OPTIMIZER.match(name):
                continue
            for anchor in ends if name.endswith(ends) else ():
                path = name.removesuffix(anchor)
                parts = re.split("(?<=[./])", path)
                if (path and parts.pop()) or any(MOMENTS.fullmatch(p[:-1]) for p in parts):
                    continue
                pairs[path, place] = None
                for k in range(len(parts)):  # below a prefix that the format has itself
                    tail = "".join(parts[k:]) + anchor
                    if tail != anchor and form.aliases(Given(shapes={tail: ()})).get(tail) in ends:
                        pairs["".join(parts[:k]), place] = None
        return iter(pairs)

    def _best(self, form: Format, paths: list[str]) -> str:
        """Of the paths above one patch embedding the one that lacks fewest; the outermost."""
        best = min(paths, key=lambda path: (self.score(form, path)[0], len(path)))
        if form.root in paths:
            self._own.add(best)
        return best


@cache
def _tables(form: Format) -> tuple[list[Line], ...]:
    """The tables of models of one block: with a head, with two, and without."""
    small = ViTConfig(depth=1, num_classes=1)
    models = (small, small.replace(distillation_token=True), small.replace(num_classes=0))
    return tuple(form.rules(config) for config in models)


@cache
def _names(form: Format) -> tuple[frozenset[str], ...]:
    """The names in each of these tables."""
    return tuple(frozenset(n for line in table for n in line.theirs) for table in _tables(form))


@cache
def _anchors(form: Format) -> tuple[str, ...]:
    """The names of the patch embedding in them."""
    lines = (line for table in _tables(form) for line in table if FIRST in line.ours)
    return form.anchors or tuple(dict.fromkeys(line.theirs[0] for line in lines))


def _ended(text: str, like: str = "") -> str:
    """With a dot at its end, or a slash if other names have slashes."""
    if not text or text[-1] in "./":
        return text
    follows = like[len(text) :][:1] if like.startswith(text) else ""
    return text + (follows if follows in ("/", ".") else "/" if "/" in like else ".")


def _rank(subtree: Subtree, all_of_them: Sequence[Subtree]) -> int:
    """The first of `PREFERRED` that a set has in a part of its path that others do not share."""
    paths = [re.split("[./]", other.path) for other in all_of_them]
    common = 0
    while all(len(p) > common and p[common] == paths[0][common] for p in paths):
        common += 1
    parts = re.split("[./]", subtree.path)[common:]
    ranks = (k for k, (p, _) in enumerate(PREFERRED) if any(re.fullmatch(p, x) for x in parts))
    return next(ranks, len(PREFERRED))


def _alike(subtrees: Sequence[Subtree], given: Given) -> bool:
    """Whether all sets are of one model, and not, say, a student and another, larger teacher."""
    shapes = [{n: given.shapes[place] for n, place in s.names.items()} for s in subtrees]
    return all(
        sum(other.get(n) == s for n, s in shapes[0].items()) >= ALIKE * max(map(len, shapes))
        for other in shapes[1:]
    )
