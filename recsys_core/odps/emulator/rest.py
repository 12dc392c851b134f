"""The REST interface: projects, tables, partitions, and the few SQL statements that make and drop them."""

import email.utils
import json
import re
import threading
import urllib.parse
import uuid
from xml.sax import saxutils

from recsys_core.odps.emulator.store import Store, Table
from recsys_core.odps.emulator.wire import Answer, RefusedError, Request, as_json
from recsys_core.odps.path import Partition

_NAME = r"(?:(?P<project>\w+)\.)?(?:(?P<schema>\w+)\.)?`?(?P<table>\w+)`?"
_CREATE = re.compile(
    rf"CREATE TABLE (?P<lenient>IF NOT EXISTS )?{_NAME}\s*\(\n(?P<columns>.*?)\n\)"
    r"(?:\s*COMMENT '[^\n]*')?(?:\s*PARTITIONED BY \(\n(?P<keys>.*?)\n\))?(?:\s*LIFECYCLE (?P<lifecycle>\d+))?\s*",
    re.DOTALL,
)
_PARTITION = re.compile(
    rf"ALTER TABLE {_NAME}\s+(?P<verb>ADD|DROP)\s+(?P<lenient>IF (NOT )?EXISTS\s+)?PARTITION \((?P<spec>.*)\)"
)
_DROP = re.compile(rf"DROP TABLE (?P<lenient>IF EXISTS )?{_NAME}")
_COLUMN = re.compile(r"\s*`?(?P<name>\w+)`?\s+(?P<kind>.*?)(?:\s+NOT NULL)?(?:\s+COMMENT '.*')?,?", re.IGNORECASE)
_VALUE = re.compile(r"\s*(\w+)=(?:'([^']*)'|\"([^\"]*)\")\s*,?")


class Rest:
    """Answers what is below `/api` but not `/api/storage`."""

    def __init__(self, store: Store) -> None:
        """Show and change the tables of `store`."""
        self._store = store
        self._lock = threading.Lock()
        self._instances: dict[str, tuple[str, str | None]] = {}

    @staticmethod
    def operation(request: Request) -> str:
        """Return what `Fault` calls the request."""
        return "sql" if "/instances" in request.path else "metadata"

    def answer(self, request: Request, host: str) -> Answer:
        """Answer a request; `host` is where the emulator listens.

        Raises:
            RefusedError: there is no such thing, or the statement cannot be done.
        """
        parts = request.path.removeprefix("/api/").split("/")
        if parts == ["logview", "host"]:
            return Answer(200, f"http://{host}".encode(), "text/plain")
        if parts == ["tenants"]:
            return as_json({"Tenant": {"Name": "emulator", "TenantId": "0", "TenantMeta": "{}", "Parameters": {}}})
        if parts[0] == "projects" and len(parts) == 2:
            return self._project(parts[1])
        if parts[0] == "projects" and parts[2:] == ["tunnel"]:
            return Answer(200, host.encode(), "text/plain")
        if parts[0] == "projects" and len(parts) == 4 and parts[2] == "tables":
            table = self._store.table(parts[1], request.params.get("curr_schema"), parts[3])
            return self._table(table, request.params)
        if parts[0] == "projects" and parts[2:3] == ["instances"]:
            return self._instance(parts, request, host)
        raise RefusedError(404, "NoSuchObject", f"the emulator has no {request.path}")

    def _project(self, project: str) -> Answer:
        if not (self._store.root / project).is_dir():
            raise RefusedError(404, "NoSuchProject", f"ODPS-0420111: Project not found - '{project}'")
        text = (
            f"<Project><Name>{project}</Name><Type>managed</Type><Owner>emulator</Owner><State>AVAILABLE</State>"
            "<Region>local</Region><Properties/></Project>"
        )
        now = email.utils.formatdate(usegmt=True)
        return _xml(text, headers={"x-odps-owner": "emulator", "x-odps-creation-time": now, "Last-Modified": now})

    def _table(self, table: Table, params: dict[str, str]) -> Answer:
        if "partitions" in params:
            wanted = _spec(params.get("partition", ""))
            entries = [
                "<Partition>"
                + "".join(f"<Column Name={quote(k)} Value={quote(v)}/>" for k, v in pairs)
                + "</Partition>"
                for pairs in table.partitions()
                if pairs[: len(wanted)] == wanted
            ]
            return _xml(f"<Partitions><Marker/><MaxItems>{len(entries)}</MaxItems>{''.join(entries)}</Partitions>")
        if "partition" in params:
            place = table.existing(_spec(params["partition"]))
            modified = int(max(path.stat().st_mtime for path in (place, *place.glob("*.parquet"))))
            meta = {"createTime": table.created, "lastDDLTime": modified, "lastModifiedTime": modified}
            return _xml(f"<Partition><Schema><![CDATA[{json.dumps(meta)}]]></Schema></Partition>")
        columns, keys = (
            [{"name": name, "type": kind, "comment": "", "label": "", "isNullable": True} for name, kind in pairs]
            for pairs in (table.columns, table.partition_keys)
        )
        schema = {
            "columns": columns,
            "partitionKeys": keys,
            "comment": "",
            "createTime": table.created,
            "lifecycle": table.lifecycle,
            "isVirtualView": False,
        }
        created, modified = (email.utils.formatdate(at, usegmt=True) for at in (table.created, table.modified))
        return _xml(
            f"<Table><Name>{table.folder.name}</Name><TableId>{table.id}</TableId>"
            f'<Schema format="Json"><![CDATA[{json.dumps(schema)}]]></Schema><Owner>emulator</Owner>'
            f"<CreationTime>{created}</CreationTime><LastModifiedTime>{modified}</LastModifiedTime>"
            "<Type>MANAGED_TABLE</Type></Table>"
        )

    def _instance(self, parts: list[str], request: Request, host: str) -> Answer:
        if request.method == "POST":
            text = request.body.decode()
            # Read by hand: the body is ours to trust no further than two of its elements.
            task, query = (re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("Name", "Query"))
            if task is None or query is None:
                raise RefusedError(400, "InvalidArgument", "an instance has a Name and a Query")
            statement = (
                saxutils.unescape(query[1].removeprefix("<![CDATA[").removesuffix("]]>")).strip().rstrip(";").rstrip()
            )
            number = uuid.uuid4().hex
            try:
                with self._store.lock:
                    self._execute(statement, parts[1])
                failure = None
            except RefusedError as error:
                failure = f"{error.code}: {error}"
            with self._lock:
                self._instances[number] = (task[1], failure)
            return Answer(201, headers={"Location": f"http://{host}{request.path}/{number}"})
        with self._lock:
            known = self._instances.get(parts[3])
        if known is None:
            raise RefusedError(404, "NoSuchObject", f"no instance {parts[3]}")
        name, failure = known
        now = email.utils.formatdate(usegmt=True)
        task = f'<Task Type="SQL"><Name>{name}</Name>'
        if "result" in request.params:
            return _xml(
                f'<Instance><Tasks>{task}<Result Format="text"><![CDATA[{failure or ""}]]></Result></Task></Tasks>'
                "</Instance>"
            )
        state = "Failed" if failure else "Success"
        tasks = (
            f"<Tasks>{task}<StartTime>{now}</StartTime><EndTime>{now}</EndTime><Status>{state}</Status>"
            "<Histories/></Task></Tasks>"
        )
        return _xml(
            f"<Instance><Status>Terminated</Status>{tasks if 'taskstatus' in request.params else ''}</Instance>",
            headers={"x-odps-owner": "emulator", "x-odps-start-time": now, "x-odps-end-time": now},
        )

    def _execute(self, statement: str, project: str) -> None:
        """Do what a statement says; a table without a project is one of `project`."""
        if match := _CREATE.fullmatch(statement):
            try:
                self._store.create(
                    _names(match, project),
                    _columns(match["columns"]),
                    _columns(match["keys"]),
                    int(match["lifecycle"] or -1),
                )
            except RefusedError as error:
                if not (match["lenient"] and "already exists" in str(error)):
                    raise
            return
        if match := _PARTITION.fullmatch(statement):
            table, wanted = self._store.table(*_names(match, project)), _spec(match["spec"])
            self._change_partition(table, wanted, match["verb"], lenient=bool(match["lenient"]))
            return
        if match := _DROP.fullmatch(statement):
            try:
                self._store.drop(self._store.table(*_names(match, project)))
            except RefusedError:
                if not match["lenient"]:
                    raise
            return
        raise RefusedError(400, "ODPS-0130161", f"the emulator does not know the statement {statement[:80]!r}")

    @staticmethod
    def _change_partition(table: Table, wanted: Partition, verb: str, *, lenient: bool) -> None:
        if [key for key, _ in wanted] != [key for key, _ in table.partition_keys]:
            raise RefusedError(400, "ODPS-0130161", f"{wanted} does not name the keys {table.partition_keys}")
        place = table.place(wanted)
        if verb == "ADD":
            if place.is_dir() and not lenient:
                raise RefusedError(400, "ODPS-0110061", f"the partition {wanted} already exists")
            place.mkdir(parents=True, exist_ok=True)
            return
        if not place.is_dir() and not lenient:
            raise RefusedError(404, "NoSuchPartition", f"no partition {wanted}")
        for file in place.glob("*"):
            file.unlink()
        if place.is_dir():
            place.rmdir()


def quote(text: str) -> str:
    """Return `text` as an XML attribute's value, in quotes."""
    return saxutils.quoteattr(text)


def partition_of(text: str) -> Partition:
    """Read `k=v/k=v`, as the storage interface writes a partition."""
    pairs = (level.partition("=") for level in text.split("/") if level)
    return tuple((key, urllib.parse.unquote(value)) for key, _, value in pairs)


def _spec(text: str) -> Partition:
    return tuple((match[1], match[2] if match[2] is not None else match[3]) for match in _VALUE.finditer(text))


def _names(match: re.Match[str], project: str) -> tuple[str, str | None, str]:
    return match["project"] or project, match["schema"], match["table"]


def _columns(text: str | None) -> list[tuple[str, str]]:
    columns = []
    for line in (text or "").splitlines():
        match = _COLUMN.fullmatch(line)
        if match is None:
            raise RefusedError(400, "ODPS-0130161", f"ODPS-0130161:[1,1] Parse exception - {line.strip()!r}")
        columns.append((match["name"], match["kind"].lower() if "<" not in match["kind"] else match["kind"]))
    return columns


def _xml(text: str, headers: dict[str, str] | None = None) -> Answer:
    return Answer(200, text.encode(), "application/xml", headers or {})
