"""Pair the tensors of a file with those of a known network if only their names differ."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import combinations
from typing import Any

from torch import Tensor

from fromnoise.interop.torch_files import Payload, state_dicts

Tree = dict[str, Any]
"""Component of a name → the tree below it, or the shapes of a tensor."""
LIST = "*"  # stands for the numbers of a list of modules
LAYER = ("weight", "bias")
BATCH_NORM = (*LAYER, "running_mean", "running_var", "num_batches_tracked")


def under(place: str, *names: str | Sequence[str]) -> list[str]:
    """Return names below a place. Braces in the place list several: `block{1,2}`."""
    match = re.search(r"\{([^}]*)\}", place)
    if match:
        places = [place.replace(match[0], word, 1) for word in match[1].split(",")]
        return [name for each in places for name in under(each, *names)]
    flat = [name for each in names for name in ([each] if isinstance(each, str) else each)]
    return [f"{place}.{name}" for name in flat]


def renamed_by_structure(
    payload: Payload, expected: Sequence[str], needed: Set[str]
) -> Payload | None:
    """Return a payload whose tensors have the expected names, paired by structure, or None.

    expected: names of a network in the order of its modules; `*` stands for the numbers of a list.
    needed: names that a network must have. The pairing is safe because all of these must hold:

    - The two are the same tree. Each component of a name has one partner, wherever the same module
      occurs; lists keep their numbers. So the names differ by one consistent renaming.
    - A component that the network has at the same place, too, is paired with itself. The others
      are equal in number, and are paired in the order of the file, which torch writes in the order
      of the modules.
    - If the tensors of two such components have equal shapes, only their order distinguishes them.
      This suffices for a numbered pair, `conv1` and `conv2`, that is also numbered in the file, in
      ascending order. For partners of other roles (query and key, weight and bias), the words of
      the names must agree with the order, or no tensor is paired.
    - All names and shapes then fit the network: the caller loads the tensors.
    """
    wanted = _tree(dict.fromkeys(expected))
    states: dict[str, Any] = {}
    matched = False
    for place, state in state_dicts(payload):
        for prefix in _prefixes(state):
            inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            names = _pair_all(_tree(inside), wanted)
            if needed <= set(names.values()):
                beside = {k: v for k, v in state.items() if not k.startswith(prefix)}
                state = {prefix + names[name]: tensor for name, tensor in inside.items()} | beside
                matched = True
                break
        states[place.rstrip(".") or "network"] = state
    scalars = {key: value for key, value in payload.items() if isinstance(value, int | float)}
    return {**scalars, **states} if matched else None


def _prefixes(state: Mapping[str, Tensor], depth: int = 3) -> Iterator[str]:
    """Yield the prefixes of at least a quarter of the names: "", `model.`, `model.net.`."""
    names = [name.split(".") for name in state]
    for parts in range(depth + 1):
        counts = Counter(".".join(name[:parts]) for name in names if len(name) > parts)
        for prefix, count in counts.items():
            if 4 * count >= len(names):
                yield f"{prefix}." if prefix else ""


def _tree(names: Mapping[str, Any]) -> Tree:
    """Return the tree of dotted names with the shape of each tensor, {} if they conflict."""
    tree: Tree = {}
    for name, tensor in names.items():
        node = tree
        *places, last = name.split(".")
        for place in places:
            node = node.setdefault(place, {})
            if not isinstance(node, dict):
                return {}
        node[last] = [getattr(tensor, "shape", None)]
    return tree


def _merged(trees: Sequence[Any]) -> Any:
    """Return one tree with the branches of all, in their order, and all shapes of each tensor.

    A branch is None if it is a tensor in one tree and has branches in another.
    """
    if all(isinstance(tree, list) for tree in trees):
        return [shape for tree in trees for shape in tree]
    if not all(isinstance(tree, dict) for tree in trees):
        return None
    branches: dict[str, list[Any]] = {}
    for tree in trees:
        for key, branch in tree.items():
            branches.setdefault(key, []).append(branch)
    return {key: _merged(each) for key, each in branches.items()}


def _pair_all(file: Tree, known: Tree) -> dict[str, str]:
    """Return the name of each tensor of the file → its name in the network, {} if some have none.

    Pairs at one place help to pair at others, so this is repeated until there are no new pairs.
    """
    words: dict[str, str] = {}
    while True:
        learned = len(words)
        names = _pair(file, known, words)
        if names is not None or len(words) == learned:
            return names or {}


def _pair(file: Any, known: Any, words: dict[str, str]) -> dict[str, str] | None:
    """Return the name of each tensor of the file → its name in the network, or None.

    words: the pairs of other places, for places where the file lacks optional components.
    """
    if not isinstance(file, dict) or not isinstance(known, dict):
        return {"": ""} if isinstance(file, list) and isinstance(known, list) else None
    branches: dict[str, tuple[str, dict[str, str] | None]] = {}
    if list(known) == [LIST]:
        inner = _pair(_merged(list(file.values())), known[LIST], words)
        if inner is None or not all(key.isdecimal() for key in file):
            return None
        branches = {key: (key, {n: inner[n] for n in _names(each)}) for key, each in file.items()}
    else:
        partners = _partners(file, known, words) or {}
        for key, partner in partners.items():
            branches[key] = partner, _pair(file[key], known[partner], words)
    if not branches or any(names is None for _, names in branches.values()):
        return None
    return {
        f"{key}.{old}".rstrip("."): f"{partner}.{new}".rstrip(".")
        for key, (partner, names) in branches.items()
        for old, new in (names or {}).items()
    }


def _names(tree: Any) -> Iterator[str]:
    if not isinstance(tree, dict):
        yield ""
        return
    for key, branch in tree.items():
        yield from (f"{key}.{name}".rstrip(".") for name in _names(branch))


def _partners(file: Tree, known: Tree, words: dict[str, str]) -> dict[str, str] | None:
    """Return the partner in the network of each component at one place, or None."""
    partners = {key: key for key in file if key in known}
    partners |= {
        key: words[key]
        for key in file
        if key not in known and words.get(key) in known.keys() - partners.keys()
    }
    unknown = [key for key in file if key not in partners]
    free = [key for key in known if key not in partners.values()]
    if unknown and len(unknown) != len(free):
        return None
    pairs = list(zip(unknown, free, strict=False))
    for (a, partner_a), (b, partner_b) in combinations(pairs, 2):
        same_shapes = list(_shapes(file[a])) == list(_shapes(file[b]))
        if same_shapes and not _told_apart(a, b, partner_a, partner_b):
            return None
    if len({*partners.values(), *free}) < len(partners) + len(free):
        return None  # two components have the same partner
    words |= {key: partner for key, partner in pairs if not key.isdecimal()}
    return partners | dict(pairs)


def _shapes(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for branch in tree.values():
            yield from _shapes(branch)
    else:
        yield from tree


def _told_apart(a: str, b: str, partner_a: str, partner_b: str) -> bool:
    """Return whether two names differ as the names of their partners do.

    Either they are numbered in the same order, or they have the words in which the partners differ:
    `to_q` and `to_k` for `proj_q` and `proj_k`.
    """
    words, stems, numbers = [], [], []
    for name in (a, b, partner_a, partner_b):
        words.append({word for word in re.split(r"[^a-z]+", name.lower()) if word})
        stems.append(re.sub(r"\d+", "", name))
        numbers.append([int(number) for number in re.findall(r"\d+", name)])
    if stems[2] == stems[3]:
        return stems[0] == stems[1] and numbers[0] < numbers[1]
    only_a, only_b = words[2] - words[3], words[3] - words[2]
    has = only_a <= words[0] and only_b <= words[1]
    return has and not only_a & words[1] and not only_b & words[0]
