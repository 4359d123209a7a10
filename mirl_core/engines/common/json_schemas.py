"""JSON schemas moved into a larger document together with the parts that they refer to.

A reference is resolved in the document that it stands in, so an embedded schema loses what it refers to.
xgrammar, besides, follows only `#` and `#/…`, decodes no pointer, and takes any value where a reference has
another form. So every part that a schema refers to is copied into the larger document's `$defs`, and every
reference becomes `#/$defs/NAME`: pointers of any form, `$anchor`, `$id`, recursion, and the dynamic
references of drafts 2019-09 and 2020-12.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin

from mirl_core.errors import RequestError

Json = Mapping[str, Any]
ANOTHER_DOCUMENT = "the schema refers to another document; put what it needs into its $defs"
_SINGLE = frozenset(
    {
        "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
        "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
"""Keywords whose value is a schema."""
_LISTS = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
"""Keywords whose value is a list of schemas; `items` was one until draft 2019-09."""
_CONTAINERS = ("$defs", "definitions")
_NAMED = frozenset({*_CONTAINERS, "dependencies", "dependentSchemas", "patternProperties", "properties"})
"""Keywords whose value is an object of schemas."""
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_IDENTITY = frozenset(
    {"$anchor", "$comment", "$dynamicAnchor", "$id", "$recursiveAnchor", "$schema", "$vocabulary"}
)
_CONSTRAINTS = (_SINGLE | _LISTS | _NAMED) - frozenset(_CONTAINERS) | frozenset(
    {
        "const", "dependentRequired", "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "maxContains",
        "maxItems", "maxLength", "maxProperties", "maximum", "minContains", "minItems", "minLength",
        "minProperties", "minimum", "multipleOf", "pattern", "required", "type", "uniqueItems",
    }
)  # fmt: skip
"""Keywords beside a reference that narrow what it allows; all others only describe."""
_TOGETHER = (
    frozenset({"additionalProperties", "patternProperties", "properties"}),
    frozenset({"items", "prefixItems"}),
    frozenset({"contains", "maxContains", "minContains"}),
    frozenset({"else", "if", "then"}),
)
"""Keywords that mean something else beside one another than apart."""
_UNEVALUATED = frozenset({"unevaluatedItems", "unevaluatedProperties"})
_OLD_DRAFT = re.compile(r"json-schema\.org/draft-0([3-7])/")


_Key = tuple[int, int | str]


class _Part(NamedTuple):
    """A schema inside a document."""

    node: Any
    base: str
    """The URI that references in the node are relative to, before the node's own `$id`."""
    key: _Key
    """The node's position: the identity of its parent, and its key there."""
    hint: str
    """What to call it among definitions."""


@dataclass(slots=True)
class Definitions:
    """The `$defs` of a document that schemas are moved into."""

    parts: dict[str, Any] = field(default_factory=dict)

    def move(self, schema: Json, name: str) -> dict[str, Any]:
        """Return a schema whose references lead into these definitions; add what it refers to.

        Args:
            name: what to call the schema itself, where it refers to itself.

        Raises:
            RequestError: a reference leads nowhere or to another document. The message names no field.
        """
        return _Move(schema, name, self.parts).run()


def self_contained(schema: Json, name: str = "root") -> dict[str, Any]:
    """Return a schema that means the same, whose references all read `#/$defs/NAME`.

    Raises: as `Definitions.move`.
    """
    definitions = Definitions()
    moved = definitions.move(schema, name)
    return moved | ({"$defs": definitions.parts} if definitions.parts else {})


def side_by_side(schemas: Mapping[str, Json]) -> dict[str, dict[str, Any]]:
    """Return schemas that mean the same, each self-contained, no two with a definition of the same name.

    A reader that puts the definitions of all of them into one object then finds each schema's own.

    Args:
        schemas: by a name that is used where a schema refers to itself.

    Raises: as `Definitions.move`.
    """
    definitions, moved = Definitions(), {}
    for name, schema in schemas.items():
        before = set(definitions.parts)
        own = definitions.move(schema, name)
        parts = {key: part for key, part in definitions.parts.items() if key not in before}
        moved[name] = own | ({"$defs": parts} if parts else {})
    return moved


def nodes(schema: Any) -> Iterator[Json]:
    """Yield every schema in a schema, itself included; data (`const`, `enum`, `default`) holds none."""
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            yield node
            pending += [child for _, _, child in _children(node)]


def _children(node: Json) -> Iterator[tuple[Any, int | str, Any]]:
    """Yield the schemas directly in a schema: the object or list that holds each, the key there, itself."""
    for keyword, value in node.items():
        if keyword in _NAMED and isinstance(value, Mapping):
            for name, child in value.items():
                if keyword != "dependencies" or not isinstance(child, list):
                    yield value, name, child
        elif keyword in _LISTS and isinstance(value, list):
            for index, child in enumerate(value):
                yield value, index, child
        elif keyword in _SINGLE:
            yield node, keyword, value


class _Move:
    """One schema on its way into definitions."""

    def __init__(self, schema: Json, name: str, parts: dict[str, Any]) -> None:
        # A copy in which no two positions share an object, so that an object's identity is a position.
        document = json.loads(json.dumps(schema))
        self._root = _Part(document, "", (0, ""), name)
        draft = _OLD_DRAFT.search(str(document.get("$schema", "")))
        self._legacy = draft is not None
        """Whether keywords beside a reference are ignored, as they are until draft 7."""
        self._id = "id" if draft is not None and draft[1] in "34" else "$id"
        self._parts = parts
        self._resources: dict[str, _Part] = {"": self._root}
        self._anchors: dict[tuple[str, str], _Part] = {}
        self._dynamic: set[tuple[str, str]] = set()
        self._recursive: set[str] = set()
        self._index()
        self._names: dict[_Key, str] = {}
        """The definition of each part that is referred to."""
        self._narrowed: list[tuple[dict[str, Any], str, dict[str, Any]]] = []
        """References with constraints beside them: the node, the definition, the constraints."""

    def run(self) -> dict[str, Any]:
        targets = self._find_targets()
        # The document's own root stays where it is, referred to or not.
        moved: dict[str, Any] = self._moved(self._root, as_definition=True)
        for part in targets:
            self._parts[self._names[part.key]] = self._moved(part, as_definition=True)
        for node, name, constraints in self._narrowed:
            self._narrow(node, name, constraints)
        return moved

    def _index(self) -> None:
        """Record every `$id` and anchor of the document."""
        pending = [self._root]
        while pending:
            part = pending.pop()
            node = part.node
            if not isinstance(node, dict):
                continue
            for container in _CONTAINERS:
                if not isinstance(node.get(container, {}), dict):
                    raise RequestError(f"the schema can't be used: its {container} must be an object")
            base = self._base(part)
            if base != part.base:
                self._resources.setdefault(base, part)
            if part is self._root:
                self._resources[base] = part
            identity = self._identity(node)
            if identity.startswith("#"):  # an anchor, until draft 7
                self._anchors.setdefault((base, identity[1:]), part)
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(anchor := node.get(keyword), str):
                    self._anchors.setdefault((base, anchor), part)
                    self._dynamic |= {(base, anchor)} if keyword == "$dynamicAnchor" else set()
            if node.get("$recursiveAnchor") is True:
                self._recursive.add(base)
            pending += [
                _Part(child, base, (id(holder), key), str(key)) for holder, key, child in _children(node)
            ]

    def _identity(self, node: Json) -> str:
        if self._legacy and "$ref" in node:
            return ""  # everything beside a reference is ignored
        identity = node.get(self._id)
        return identity if isinstance(identity, str) else ""

    def _base(self, part: _Part) -> str:
        """Return the URI that references in a part are relative to."""
        identity = self._identity(part.node) if isinstance(part.node, Mapping) else ""
        uri = identity.partition("#")[0]
        return _joined(part.base, uri) if uri else part.base

    def _find_targets(self) -> list[_Part]:
        """Return every part that the schema refers to, directly or not, and its `$defs`; name each."""
        targets = self._referred_from(self._root, {})
        definitions = self._root.node.get("$defs", {})
        # What nothing refers to may be wrong: it is left out then, with what follows it.
        with suppress(RequestError):
            for name, node in definitions.items():
                unused = _Part(node, self._base(self._root), (id(definitions), name), name)
                if unused.key not in targets:
                    targets |= {unused.key: unused, **self._referred_from(unused, targets)}
        for part in targets.values():
            self._names[part.key] = self._free_name(part.hint)
        return list(targets.values())

    def _referred_from(self, start: _Part, known: Mapping[_Key, _Part]) -> dict[_Key, _Part]:
        """Return the parts that are referred to from a part, directly or not, besides the known ones."""
        targets: dict[_Key, _Part] = {}
        seen: set[_Key] = set()
        pending = [start]
        while pending:
            part = pending.pop()
            if part.key in seen or not isinstance(part.node, dict):
                continue
            seen.add(part.key)
            base = self._base(part)
            for keyword in _REFERENCES:
                if keyword in part.node:
                    target = self._target(keyword, part.node[keyword], base)
                    if target.key not in targets and target.key not in known:
                        targets[target.key] = target
                        pending.append(target)
            if not (self._legacy and "$ref" in part.node):
                pending += [
                    _Part(child, base, (id(holder), key), str(key))
                    for holder, key, child in _children(part.node)
                    if not any(holder is part.node.get(container) for container in _CONTAINERS)
                ]
        return targets

    def _free_name(self, hint: str) -> str:
        name = wanted = re.sub(r"[^A-Za-z0-9_-]", "_", hint) or "part"
        number = 2
        while name in self._parts:
            name, number = f"{wanted}_{number}", number + 1
        self._parts[name] = None  # taken; the part follows
        return name

    def _target(self, keyword: str, reference: object, base: str) -> _Part:
        """Return the part that a reference leads to."""
        if not isinstance(reference, str):
            raise RequestError(f"the schema can't be used: a {keyword} in it is no text")
        uri, _, fragment = reference.partition("#")
        uri = _joined(base, uri) if uri else base
        if uri not in self._resources:
            raise RequestError(ANOTHER_DOCUMENT)
        resource = self._resources[uri]
        fragment = unquote(fragment)
        if keyword == "$dynamicRef" and (uri, fragment) in self._dynamic:
            outermost = (self._base(self._root), fragment)
            return self._anchors[outermost if outermost in self._dynamic else (uri, fragment)]
        if keyword == "$recursiveRef" and {uri, self._base(self._root)} <= self._recursive:
            return self._root
        if fragment and not fragment.startswith("/"):
            if (uri, fragment) not in self._anchors:
                raise _nowhere(reference)
            return self._anchors[uri, fragment]
        part = resource
        for token in fragment.split("/")[1:]:
            key: int | str = token.replace("~1", "/").replace("~0", "~")
            holder, base = part.node, self._base(part)
            if isinstance(holder, list):
                key = int(key) if str(key).isdecimal() else -1
                exists = 0 <= key < len(holder)
            else:
                exists = isinstance(holder, dict) and key in holder
            if not exists:
                raise _nowhere(reference)
            part = _Part(holder[key], base, (id(holder), key), str(key))
        if not isinstance(part.node, dict | bool):
            raise _nowhere(reference)
        return part

    def _moved(self, part: _Part, as_definition: bool = False) -> Any:
        """Return a part with its references moved; what is referred to elsewhere becomes a reference."""
        if part.key in self._names and not as_definition:
            return {"$ref": _pointer(self._names[part.key])}
        node = part.node
        if not isinstance(node, dict):
            return node
        base = self._base(part)
        references = [keyword for keyword in _REFERENCES if keyword in node]
        rest = {} if self._legacy and "$ref" in node else self._moved_keywords(node, base)
        if not references:
            return rest
        names = [self._names[self._target(keyword, node[keyword], base).key] for keyword in references]
        constraints = {keyword: value for keyword, value in rest.items() if keyword in _CONSTRAINTS}
        moved: dict[str, Any] = {"$ref": _pointer(names[0])}
        moved |= {keyword: value for keyword, value in rest.items() if keyword not in _CONSTRAINTS}
        if names[1:]:
            constraints["allOf"] = [
                *constraints.get("allOf", []), *({"$ref": _pointer(name)} for name in names[1:])
            ]  # fmt: skip
        if constraints:
            self._narrowed.append((moved, names[0], constraints))
        return moved

    def _moved_keywords(self, node: Json, base: str) -> dict[str, Any]:
        moved: dict[str, Any] = {}
        for keyword, value in node.items():
            if keyword in _IDENTITY or keyword in _CONTAINERS or keyword in _REFERENCES:
                continue
            if keyword in _NAMED and isinstance(value, dict):
                moved[keyword] = {
                    name: child if isinstance(child, list) else self._child(child, base, value, name)
                    for name, child in value.items()
                }
            elif keyword in _LISTS and isinstance(value, list):
                moved[keyword] = [self._child(child, base, value, i) for i, child in enumerate(value)]
            elif keyword in _SINGLE:
                moved[keyword] = self._child(value, base, node, keyword)
            else:
                moved[keyword] = value
        return _in_new_words(moved)

    def _child(self, node: Any, base: str, holder: Any, key: int | str) -> Any:
        return self._moved(_Part(node, base, (id(holder), key), str(key)))

    def _narrow(self, node: dict[str, Any], name: str, constraints: dict[str, Any]) -> None:
        """Put constraints beside a reference into what it refers to: xgrammar ignores them there.

        Where the two can't be one schema they stay two, which xgrammar can't enforce; the check says so.
        """
        part = self._parts[name]
        if not isinstance(part, dict) or "$ref" in part or not _compatible(part, constraints):
            del node["$ref"]
            node["allOf"] = [{"$ref": _pointer(name)}, constraints]
        elif not all(keyword in part for keyword in constraints):
            narrowed = self._free_name(name)
            self._parts[narrowed] = {**part, **constraints}
            node["$ref"] = _pointer(narrowed)


def _compatible(part: Json, constraints: Json) -> bool:
    """Return whether one schema with the keywords of both accepts exactly the values that both accept."""
    keywords, others = set(part) & _CONSTRAINTS, set(constraints)
    if any(part[keyword] != constraints[keyword] for keyword in keywords & others):
        return False
    added = others - keywords
    if not added:
        return True
    return not (keywords | others) & _UNEVALUATED and not any(
        group & added and group & keywords for group in _TOGETHER
    )


def _in_new_words(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with the keywords of old drafts in those of draft 2020-12."""
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        if "additionalItems" in schema:
            schema["items"] = schema.pop("additionalItems")
    if isinstance(dependencies := schema.get("dependencies"), dict):
        del schema["dependencies"]
        required = {name: value for name, value in dependencies.items() if isinstance(value, list)}
        schemas = {name: value for name, value in dependencies.items() if not isinstance(value, list)}
        schema |= {"dependentRequired": required} if required else {}
        schema |= {"dependentSchemas": schemas} if schemas else {}
    return schema


def _joined(base: str, uri: str) -> str:
    try:
        return urljoin(base, uri)
    except ValueError:  # no URI
        return uri


def _pointer(name: str) -> str:
    return f"#/$defs/{name}"


def _nowhere(reference: str) -> RequestError:
    return RequestError(f"the schema can't be used: its reference '{reference[:64]}' leads nowhere")
