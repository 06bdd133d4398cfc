"""What a plugin in Python needs of Millstream: it turns the columns of the contract
(plugin-sdk/wit/plugin.wit) into one message at a time, and what becomes of each into columns."""

import json

from componentize_py_types import Err
from wit_world.imports import log as host_log
from wit_world.imports import lookup as host_lookup
from wit_world.imports import types

PASS = 0
"""The message goes on as it is."""
DROP = 1
"""The message goes no further."""
EMIT = 2
"""What was emitted goes on in its place; nothing, if nothing was."""

_REJECT = 3
_RETRY = 4
# "There is none", in place of an address.
_NONE = 0xFFFF_FFFE
# "As in the parent row", in place of an address or a route.
_AS_PARENT = 0xFFFF_FFFF
_TIMESTAMP_AS_PARENT = -(2**63)
_SAME = object()
"""As in the message that a new one comes from."""


class Failure(Exception):
    """Raised for a message that cannot be handled. `code` is short and one of few."""

    def __init__(self, verdict, code, text):
        super().__init__(text)
        self.verdict, self.code, self.text = verdict, code, text


def reject(code, text):
    """`raise reject(...)`: the message goes to the dead letters."""
    return Failure(_REJECT, code, text)


def retry(code, text):
    """`raise retry(...)`: the message is given again later."""
    return Failure(_RETRY, code, text)


class ConfigError(Exception):
    """Raised by `configure`: which field is wrong, as a JSON pointer, and why."""

    def __init__(self, field, message):
        super().__init__(message)
        self.field, self.message = field, message


class Plugin:
    """A plugin. It has one of

    - `filter(message)`, which says whether a message goes on
    - `map(message)`, which returns its new payload
    - `process(message, out)`, which returns PASS, DROP or EMIT
    """

    name: str
    version: str
    summary: str
    reads = {"payload"}
    """What it wants of a message: payload, key, headers, metadata."""
    schema: dict = {}
    """JSON Schema of its configuration."""

    def configure(self, config):
        """Called once before the first message."""

    def process(self, message, out):
        if hasattr(self, "filter"):
            return PASS if self.filter(message) else DROP
        out.emit(payload=self.map(message))
        return EMIT


def export(plugin):
    """The class of a plugin as the contract has it, to be called `Processor`."""
    # Each call has a `Processor` of its own.
    only = plugin()

    class Processor:
        def describe(self):
            reads = types.Reads(0)
            for column in plugin.reads:
                reads |= types.Reads[column.upper()]
            schema = json.dumps(plugin.schema)
            return types.Description(plugin.name, plugin.version, plugin.summary, reads, schema)

        def configure(self, config):
            try:
                only.configure(json.loads(config))
            except ConfigError as error:
                raise Err(types.ConfigError(error.field, error.message))

        def process(self, batch):
            out = Output(len(batch.arena))
            for row in range(batch.rows):
                log.row = row
                out._begin(row)
                try:
                    verdict = only.process(Message(batch, row), out)
                    out._end(PASS if verdict is None else verdict)
                except Failure as failure:
                    out._fail(failure.verdict, failure.code, failure.text)
                except Exception as error:
                    out._fail(_REJECT, "exception", _told(error))
            log.row = None
            return out._outcome()

    return Processor


class Message:
    """One message."""

    __slots__ = ("_batch", "_row")

    def __init__(self, batch, row):
        self._batch, self._row = batch, row

    @property
    def payload(self):
        """Bytes; None if there are none, or the plugin does not read it."""
        return _span(self._batch.arena, self._batch.payloads, self._row)

    @property
    def key(self):
        """Bytes; None if there are none, or the plugin does not read it."""
        return _span(self._batch.arena, self._batch.keys, self._row)

    def text(self):
        return (self.payload or b"").decode()

    def json(self):
        try:
            return json.loads(self.payload or b"")
        except ValueError as error:
            raise reject("payload-not-json", str(error)) from None

    @property
    def headers(self):
        """Names and values of all headers, as texts."""
        batch = self._batch
        if not batch.header_ends:
            return []
        first = batch.header_ends[self._row - 1] if self._row else 0
        texts = [
            _span(batch.arena, batch.headers, part).decode(errors="replace")
            for part in range(first * 2, batch.header_ends[self._row] * 2)
        ]
        return list(zip(texts[::2], texts[1::2]))

    def header(self, name):
        """The first header of this name, whatever its case; None if there is none."""
        return next((value for other, value in self.headers if other.lower() == name.lower()), None)

    @property
    def timestamp(self):
        """Event time, in milliseconds since 1970; None without "metadata"."""
        return self._of(self._batch.timestamps)

    @property
    def partition(self):
        return self._of(self._batch.partitions)

    @property
    def offset(self):
        return self._of(self._batch.offsets)

    @property
    def source(self):
        """Name of the source."""
        return self._batch.source

    @property
    def now(self):
        """Wall-clock time of the call, in milliseconds since 1970: there is no other clock."""
        return self._batch.now

    def _of(self, column):
        return column[self._row] if column else None


class Output:
    """What becomes of the messages of a batch."""

    def __init__(self, start):
        self._start = start
        self._arena = bytearray()
        self._verdicts = bytearray()
        self._emitted, self._headers, self._timestamps = [], [], []
        self._routes, self._reasons = [], []

    def emit(
        self, payload=_SAME, key=_SAME, headers=(), replace_headers=False, timestamp=_TIMESTAMP_AS_PARENT, routes=None
    ):
        """Gives a new message, which is as the one it comes from but for what is said here:
        `payload` and `key` (bytes, a text, None, or a value that is written as JSON), `headers` (a
        dict, or pairs where names repeat; they take the place of those of their names, and None
        removes those), `replace_headers` (these replace all), `timestamp`, `routes`."""
        pairs = list(headers.items() if isinstance(headers, dict) else headers)
        for name, value in pairs:
            self._headers += self._address(name)
            self._headers += self._address(value)
        route = _AS_PARENT if routes is None else self._route_set(list(routes))
        self._emitted += (
            self._row,
            *self._address(payload),
            *self._address(key),
            len(pairs),
            int(replace_headers),
            route,
        )
        self._timestamps.append(timestamp)

    def _begin(self, row):
        self._row = row
        self._marks = len(self._emitted), len(self._headers), len(self._timestamps)

    def _end(self, verdict):
        if verdict != EMIT:
            self._discard()
        self._verdicts.append(verdict)

    def _fail(self, verdict, code, text):
        self._discard()
        self._verdicts.append(verdict)
        self._reasons.append(types.Reason(self._row, code, text))

    def _outcome(self):
        return types.Outcome(
            bytes(self._verdicts),
            bytes(self._arena),
            self._emitted,
            self._headers,
            self._timestamps,
            self._routes,
            self._reasons,
        )

    def _discard(self):
        emitted, headers, timestamps = self._marks
        del self._emitted[emitted:], self._headers[headers:], self._timestamps[timestamps:]

    def _address(self, value):
        if value is _SAME:
            return _AS_PARENT, 0
        if value is None:
            return _NONE, 0
        value = _to_bytes(value)
        address = self._start + len(self._arena)
        self._arena += value
        return address, len(value)

    def _route_set(self, routes):
        if routes not in self._routes:
            self._routes.append(routes)
        return self._routes.index(routes)


class _Log:
    """The host's log."""

    row = None

    def __getattr__(self, level):
        return lambda text: host_log.write(host_log.Level[level.upper()], self.row, str(text))


log = _Log()


def lookup(table, keys):
    """The rows of a table that have these keys, in their order; None where there is none."""
    arena, spans = bytearray(), []
    for key in map(_to_bytes, keys):
        spans += (len(arena), len(key))
        arena += key
    values = host_lookup.get_many(table, bytes(arena), spans)
    rows = (_span(values.arena, values.found, index) for index in range(len(spans) // 2))
    return [None if row is None else json.loads(row) for row in rows]


def _told(error):
    """An exception and its frames. `traceback` would look for the sources, and there are no files."""
    lines, frame = [f"{type(error).__name__}: {error}"], error.__traceback__
    while frame:
        code = frame.tb_frame.f_code
        lines.append(f"  {code.co_filename}:{frame.tb_lineno} in {code.co_name}")
        frame = frame.tb_next
    return "\n".join(lines)


def _to_bytes(value):
    if isinstance(value, (bytes, bytearray, memoryview)):
        return value
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return value.encode()


def _span(arena, spans, index):
    """The bytes of a span, or None."""
    if not spans:
        return None
    start, length = spans[index * 2], spans[index * 2 + 1]
    return None if start == _NONE else arena[start : start + length]
