"""Deployment configs: what loads, what is refused with which words, and that nothing is lost on the way."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftstore import registry
from raftstore.config import Limits, StoreConfig, load
from raftstore.errors import BackendMissingError, ConfigError
from raftstore.policy import Batch, FlushPolicy, Immediate, Pending
from raftstore.spelling import format_size, parse_size
from raftstore.strategy import DiskFirst, MemFirst, Strategy

NO_ENVIRONMENT: Mapping[str, str] = {}


class Alpha:
    def __init__(
        self,
        path: Path,
        *,
        segment_bytes: Annotated[int, msgspec.Meta(ge=4096)] = 65536,
        mode: Literal["fast", "safe"] = "safe",
        ratio: float = 0.5,
        eager: bool = False,
        room_bytes: int | None = None,
        tags: list[str] | None = None,
        cache_bytes: int = 0,
        _files: object = None,
    ) -> None: ...


class Beta:
    def __init__(self, path: Path, **options: object) -> None: ...


class Unreadable:
    def __init__(self, path: Path, *, size: NotThere = 0) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.fixture(autouse=True, scope="module")
def backends() -> Any:
    def find(name: str) -> Any:
        if name == "gone":
            raise BackendMissingError("pip install 'raftstore[gone]'")
        known = {"segmented": Alpha, "alpha": Alpha, "beta": Beta, "unreadable": Unreadable}
        if name not in known:
            raise ConfigError(f"no backend {name!r}; registered are alpha, beta", key="backend")
        return known[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "backend_class", find)
        yield


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = tmp_path / "raftstore.toml"
        file.write_text(text)
        return file

    return write


def load_text(write: Callable[[str], Path], text: str, **environ: str) -> StoreConfig:
    return load(write(text), environ)


# --- what loads -------------------------------------------------------------------------------------------

FULL = """
[raftstore]
path = "/var/lib/n1/raft"
backend = "segmented"
strategy = { MemFirst = { sync_on_commit = true } }
flush_policy = { Batch = { threshold = 1000, interval = 10 } }
startup = "preload"
create = false

[raftstore.limits]
cache_bytes = "32MiB"
memory_bytes_max = "2GiB"
pending_bytes_max = 1048576
entry_bytes_max = "64 MB"
write_bytes_max = "1TiB"
backpressure_timeout_ms = 5
lock_timeout_ms = 0

[raftstore.backends.segmented]
segment_bytes = "64KiB"
mode = "fast"

[raftstore.backends.beta]
what = [1, 2]
"""


def test_a_file_with_every_key_loads_as_it_reads(toml: Callable[[str], Path]) -> None:
    assert load_text(toml, FULL) == StoreConfig(
        path=Path("/var/lib/n1/raft"),
        backend="segmented",
        strategy=MemFirst(sync_on_commit=True),
        flush_policy=Batch(1000, 10),
        startup="preload",
        create=False,
        limits=Limits(
            cache_bytes=32 * 2**20,
            memory_bytes_max=2 * 2**30,
            pending_bytes_max=2**20,
            entry_bytes_max=64 * 10**6,
            write_bytes_max=2**40,
            backpressure_timeout_ms=5,
            lock_timeout_ms=0,
        ),
        backends={"segmented": {"segment_bytes": 65536, "mode": "fast"}, "beta": {"what": [1, 2]}},
    )


def test_a_path_alone_is_a_config_with_the_documented_defaults(toml: Callable[[str], Path]) -> None:
    config = load_text(toml, "[raftstore]\npath = '/d'")
    assert config == StoreConfig(path=Path("/d"))
    assert (config.backend, config.strategy, config.flush_policy) == ("segmented", DiskFirst(), Immediate())
    assert (config.startup, config.create, dict(config.backends)) == ("lazy", True, {})
    assert msgspec.structs.asdict(config.limits) == {
        "cache_bytes": 64 * 2**20,
        "memory_bytes_max": 2**30,
        "pending_bytes_max": 16 * 2**20,
        "entry_bytes_max": 64 * 2**20,
        "write_bytes_max": 256 * 2**20,
        "backpressure_timeout_ms": 1000,
        "lock_timeout_ms": 2000,
    }


def test_a_url_takes_core_keys_limits_and_the_backends_own_options() -> None:
    config = load(
        "alpha:///var/lib/n1?strategy=MemFirst&flush_policy=Batch:1000:10&create=false&startup=preload"
        "&pending_bytes_max=1MiB&lock_timeout_ms=7&segment_bytes=64KiB&ratio=0.25&eager=true&mode=fast"
        "&backends.beta.x=1"
    )
    assert config == StoreConfig(
        path=Path("/var/lib/n1"),
        backend="alpha",
        strategy=MemFirst(),
        flush_policy=Batch(1000, 10),
        create=False,
        startup="preload",
        limits=Limits(pending_bytes_max=2**20, lock_timeout_ms=7),
        backends={
            "alpha": {"segment_bytes": 65536, "ratio": 0.25, "eager": True, "mode": "fast"},
            "beta": {"x": "1"},
        },
    )


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [
        ('"DiskFirst"', DiskFirst()),
        ('"MemFirst"', MemFirst()),
        ('"MemFirst:sync_on_commit"', MemFirst(sync_on_commit=True)),
        ("{ MemFirst = { sync_on_commit = true } }", MemFirst(sync_on_commit=True)),
        ("{ MemFirst = { sync_on_commit = false } }", MemFirst()),
        ("{ MemFirst = {} }", MemFirst()),
        ("{ DiskFirst = {} }", DiskFirst()),
    ],
)
def test_every_spelling_of_a_strategy_is_read(
    toml: Callable[[str], Path], spelled: str, meant: Strategy
) -> None:
    assert load_text(toml, f"[raftstore]\npath = '/d'\nstrategy = {spelled}").strategy == meant


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [
        ('"Immediate"', Immediate()),
        ("{ Immediate = {} }", Immediate()),
        ('"Batch:1:2"', Batch(1, 2)),
        ("{ Batch = { threshold = 1000, interval = 10 } }", Batch(1000, 10)),
        ("{ Batch = { threshold = 1000, interval_ms = 10 } }", Batch(1000, 10)),
    ],
)
def test_every_spelling_of_a_flush_policy_is_read(
    toml: Callable[[str], Path], spelled: str, meant: FlushPolicy
) -> None:
    assert load_text(toml, f"[raftstore]\npath = '/d'\nflush_policy = {spelled}").flush_policy == meant


def test_a_relative_path_is_meant_from_the_directory_of_its_file(
    toml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = toml("[raftstore]\npath = 'data/raft'")
    monkeypatch.chdir("/")
    assert load(file, NO_ENVIRONMENT).path == file.parent / "data/raft"
    monkeypatch.chdir(file.parent)
    assert load("raftstore.toml", NO_ENVIRONMENT).path == file.parent / "data/raft"


def test_a_config_made_in_code_does_not_move_with_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert StoreConfig(path=Path("store")).path == tmp_path / "store"


def test_any_path_like_names_a_file(toml: Callable[[str], Path]) -> None:
    class Like:
        def __fspath__(self) -> str:
            return str(file)

    file = toml("[raftstore]\npath = '/d'")
    assert load(Like(), NO_ENVIRONMENT) == load(str(file), NO_ENVIRONMENT) == StoreConfig(path=Path("/d"))


def test_the_options_of_a_backend_without_its_library_are_kept_for_later() -> None:
    config = StoreConfig(path=Path("/d"), backend="gone", backends={"gone": {"x": "64KiB"}})
    assert load(config) == config


def test_annotations_that_exist_only_for_type_checkers_leave_the_names_checked() -> None:
    assert load("unreadable:///d?size=5").options == {"size": "5"}
    with pytest.raises(ConfigError, match="options of this backend are size"):
        load("unreadable:///d?sizes=5")


# --- the environment --------------------------------------------------------------------------------------


def test_the_environment_overrides_a_file(toml: Callable[[str], Path]) -> None:
    config = load_text(
        toml,
        FULL,
        RAFTSTORE_PATH="/other",
        RAFTSTORE_BACKEND="alpha",
        RAFTSTORE_STRATEGY="DiskFirst",
        RAFTSTORE_FLUSH_POLICY="Batch:7:8",
        RAFTSTORE_STARTUP="lazy",
        RAFTSTORE_CREATE="true",
        RAFTSTORE_CACHE_BYTES="1MiB",
        RAFTSTORE_LOCK_TIMEOUT_MS="9",
        RAFTSTORE_SEGMENT_BYTES="8KiB",
    )
    assert (config.path, config.backend, config.options) == (
        Path("/other"),
        "alpha",
        {"segment_bytes": 8192},
    )
    assert (config.strategy, config.flush_policy) == (DiskFirst(), Batch(7, 8))
    assert (config.startup, config.create) == ("lazy", True)
    assert (config.limits.cache_bytes, config.limits.lock_timeout_ms) == (2**20, 9)
    assert config.limits.memory_bytes_max == 2 * 2**30


def test_the_path_may_come_from_the_environment_alone(toml: Callable[[str], Path]) -> None:
    assert load_text(toml, "[raftstore]", RAFTSTORE_PATH="/d").path == Path("/d")


def test_an_unknown_variable_is_an_error_unless_it_is_empty_or_for_tests(toml: Callable[[str], Path]) -> None:
    text = "[raftstore]\npath = '/d'"
    load_text(toml, text, RAFTSTORE_TEST_BACKENDS="x", RAFTSTORE_STRATEGY="", OTHER="1", RAFTSTOREX="1")
    with pytest.raises(ConfigError, match="RAFTSTORE_STRATGY: unknown key") as caught:
        load_text(toml, text, RAFTSTORE_STRATGY="MemFirst")
    assert caught.value.key == "RAFTSTORE_STRATGY"


def test_a_relative_path_in_the_environment_is_refused(toml: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"RAFTSTORE_PATH.*absolute"):
        load_text(toml, "[raftstore]", RAFTSTORE_PATH="d")


def test_the_process_environment_is_the_default_and_reaches_neither_urls_nor_objects(
    toml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAFTSTORE_STRATEGY", "MemFirst")
    config = StoreConfig(path=Path("/d"))
    assert load(toml("[raftstore]\npath = '/d'")).strategy == MemFirst()
    assert load("segmented:///d").strategy == DiskFirst()
    assert load(config).strategy == DiskFirst()


# --- d-engine's section -----------------------------------------------------------------------------------

D_ENGINE = """
[cluster]
node_id = 1

[raft.election]
election_timeout_min = 500

[raft.persistence]
strategy = "MemFirst"
flush_policy = { Batch = { threshold = 1000, interval_ms = 10 } }
max_buffered_entries = 10000
flush_workers = 2
channel_capacity = 100
"""


def test_the_persistence_section_of_d_engine_loads_unchanged(
    toml: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        config = load_text(toml, D_ENGINE, RAFTSTORE_PATH="/d")
    assert config == StoreConfig(path=Path("/d"), strategy=MemFirst(), flush_policy=Batch(1000, 10))
    ignored = [record.getMessage().split(": ")[1].split()[0] for record in caplog.records]
    assert ignored == [
        f"raft.persistence.{name}" for name in ("max_buffered_entries", "flush_workers", "channel_capacity")
    ]


def test_where_both_sections_stand_a_key_of_raftstore_wins(toml: Callable[[str], Path]) -> None:
    ours = "[raftstore]\npath = '/d'\nstrategy = 'DiskFirst'\n"
    assert load_text(toml, ours + D_ENGINE) == StoreConfig(path=Path("/d"), flush_policy=Batch(1000, 10))


def test_the_idle_timer_of_a_newer_d_engine_means_a_flush_after_each_write(
    toml: Callable[[str], Path],
) -> None:
    text = "[raft.persistence]\nflush_policy = { Batch = { idle_flush_interval_ms = 1000 } }"
    assert load_text(toml, text, RAFTSTORE_PATH="/d").flush_policy == Immediate()


def test_an_unknown_key_in_the_persistence_section_is_an_error(toml: Callable[[str], Path]) -> None:
    with pytest.raises(
        ConfigError, match=r"raft\.persistence\.persistence_strategy: unknown key; allowed are"
    ):
        load_text(toml, "[raft.persistence]\npersistence_strategy = 'MemFirst'", RAFTSTORE_PATH="/d")


# --- what is refused --------------------------------------------------------------------------------------

WRONG = [
    # text below [raftstore] with a path, key, what the message says
    ("strateg = 'MemFirst'", "raftstore.strateg", "allowed are path, backend, strategy"),
    ("strategy = 'Raid'", "raftstore.strategy", "not one of DiskFirst, MemFirst"),
    ("strategy = 3", "raftstore.strategy", "not one of DiskFirst, MemFirst"),
    ("strategy = 'DiskFirst:x'", "raftstore.strategy", "no more than DiskFirst"),
    ("strategy = 'MemFirst:x'", "raftstore.strategy", "takes MemFirst:sync_on_commit"),
    ("strategy = { MemFirst = true }", "raftstore.strategy", "takes a table"),
    ("strategy = { MemFirst = { sync = true } }", "raftstore.strategy", "allowed are sync_on_commit"),
    ("strategy = { MemFirst = { sync_on_commit = 1 } }", "raftstore.strategy", "Expected `bool`"),
    ("strategy = { MemFirst = {}, DiskFirst = {} }", "raftstore.strategy", "not one of"),
    ("flush_policy = 'Batch'", "raftstore.flush_policy", "Batch:threshold:interval"),
    ("flush_policy = 'Batch:1:2:3'", "raftstore.flush_policy", "Batch:threshold:interval"),
    ("flush_policy = 'Batch:many:2'", "raftstore.flush_policy", "Expected `int`"),
    ("flush_policy = 'Batch:0:10'", "raftstore.flush_policy", "threshold is an integer from 1"),
    ("flush_policy = 'Batch:1:0'", "raftstore.flush_policy", "interval is an integer from 1"),
    ("flush_policy = { Batch = { threshold = 0, interval = 1 } }", "raftstore.flush_policy", "from 1 to"),
    ("flush_policy = { Batch = { threshold = 1 } }", "raftstore.flush_policy", "`interval`"),
    ("flush_policy = { Batch = { threshold = '1', interval = 1 } }", "raftstore.flush_policy", "`int`"),
    (
        "flush_policy = { Batch = { threshold = 1, interval = 1, interval_ms = 1 } }",
        "raftstore.flush_policy",
        "interval_ms",
    ),
    (
        "flush_policy = { Batch = { threshold = 1, interval = 86400001 } }",
        "raftstore.flush_policy",
        "86400000",
    ),
    ("flush_policy = 'Adaptive:5'", "raftstore.flush_policy", "not available in this version"),
    ("flush_policy = { Adaptive = { latency_ms = 5 } }", "raftstore.flush_policy", "not available"),
    ("startup = 'eager'", "raftstore.startup", "'eager'"),
    ("create = 'false'", "raftstore.create", "Expected `bool`"),
    ("backend = 5", "raftstore.backend", "Expected `str`"),
    ("backend = 'nosuch'", "raftstore.backend", "registered are alpha, beta"),
    ("backend = '../x'", "raftstore.backend", "a-z0-9"),
    ("limits = 5", "raftstore.limits", "must be a table"),
    ("limits.cache_byte = 5", "raftstore.limits.cache_byte", "allowed are cache_bytes"),
    ("limits.cache_bytes = -1", "raftstore.limits.cache_bytes", ">= 0"),
    ("limits.pending_bytes_max = 0", "raftstore.limits.pending_bytes_max", ">= 1"),
    ("limits.pending_bytes_max = 9223372036854775808", "raftstore.limits.pending_bytes_max", "<="),
    ("limits.cache_bytes = '64MBit'", "raftstore.limits.cache_bytes", "a size such as 64MiB"),
    ("limits.cache_bytes = 1.5", "raftstore.limits.cache_bytes", "Expected `int`"),
    ("limits.cache_bytes = true", "raftstore.limits.cache_bytes", "Expected `int`"),
    ("limits.lock_timeout_ms = '1KiB'", "raftstore.limits.lock_timeout_ms", "Expected `int`"),
    ("backends = 5", "raftstore.backends", "must be a table"),
    ("backends.alpha = 5", "raftstore.backends.alpha", "must be a table"),
    ("backends.nosuch.x = 5", "raftstore.backends.nosuch.x", "registered are"),
    (
        "backends.alpha.segment = 5",
        "raftstore.backends.alpha.segment",
        "options of this backend are segment_b",
    ),
    ("backends.alpha.segment_bytes = 5", "raftstore.backends.alpha.segment_bytes", ">= 4096"),
    ("backends.alpha.segment_bytes = '5B'", "raftstore.backends.alpha.segment_bytes", ">= 4096"),
    ("backends.alpha.mode = 'slow'", "raftstore.backends.alpha.mode", "'slow'"),
    ("backends.alpha._files = 5", "raftstore.backends.alpha._files", "unknown key"),
    ("backends.beta._files = 5", "raftstore.backends.beta._files", "unknown key"),
]


@pytest.mark.parametrize(("text", "key", "message"), WRONG, ids=[text for text, _, _ in WRONG])
def test_a_wrong_file_is_refused_with_file_key_and_what_is_allowed(
    toml: Callable[[str], Path], text: str, key: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(toml, f"[raftstore]\npath = '/d'\n{text}")
    assert caught.value.key == key
    assert caught.value.file is not None
    assert caught.value.file.name == "raftstore.toml"
    assert message in str(caught.value)
    assert "raftstore.toml" in str(caught.value)


@pytest.mark.parametrize("path", ["''", "5", "'a\\u0000b'"])
def test_a_path_that_is_none_is_refused(toml: Callable[[str], Path], path: str) -> None:
    with pytest.raises(ConfigError, match="path"):
        load_text(toml, f"[raftstore]\npath = {path}".replace("'a", '"a').replace("b'", 'b"'))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no \\[raftstore\\] section"),
        (b"[raft_store]\npath = '/d'", "no \\[raftstore\\] section"),
        (b"raftstore = 5", "must be a table"),
        (b"[raft]\npersistence = 5", "must be a table"),
        (b"[raftstore]", "path: required"),
        (b"[raftstore", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        (b"x = " + b"[" * 100_000, "not TOML"),
        (b"#" * (1 << 20) + b"##", "longer than"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "raftstore.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load(file, NO_ENVIRONMENT)
    assert caught.value.file == file


def test_a_missing_file_and_a_directory_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="segmented:///"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    "url",
    [
        "segmented://",
        "segmented://relative/path",
        "segmented://host:1/path",
        "segmented:///d#fragment",
        "segmented:///d?strategy",
        "segmented:///d?strategy=MemFirst&strategy=MemFirst",
        "segmented:///d?=1",
        "segmented:///d?a=1&",
        "segmented:///d?path=/e",
        "segmented:///d?backend=alpha",
        "segmented:///d?nosuch=1",
        "segmented:///d?limits.cache_bytes=1",
        "segmented:///d?backends.alpha=1",
        "segmented:///d?backends.nosuch.x=1",
        "segmented:///d?create=maybe",
        "segmented:///d?cache_bytes=-1",
        "segmented:///d?cache_bytes=",
        "segmented:///d?startup=eager",
        "segmented:///d%00e",
        "nosuch:///d",
        "SEGMENTED:///d",
    ],
)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        load(url)


def test_what_is_no_source_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="no config"):
        load(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"path": ""},
        {"path": 5},
        {"path": "a\0b"},
        {"backend": "UPPER"},
        {"backend": "a/b"},
        {"backend": "a\n"},
        {"strategy": "MemFirst"},
        {"strategy": MemFirst(sync_on_commit="yes")},  # type: ignore[arg-type]
        {"flush_policy": "Immediate"},
        {"flush_policy": Batch(0, 1)},
        {"flush_policy": Batch(1, 0)},
        {"flush_policy": Batch(True, 1)},
        {"startup": "eager"},
        {"create": 1},
        {"limits": {}},
        {"limits": Limits(cache_bytes=-1)},
        {"limits": Limits(cache_bytes="64MiB")},  # type: ignore[arg-type]
        {"limits": Limits(lock_timeout_ms=10**9)},
        {"backends": []},
        {"backends": {"alpha": 5}},
        {"backends": {"Alpha": {}}},
    ],
)
def test_a_wrong_value_in_code_is_refused_when_the_config_is_made(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        StoreConfig(**{"path": Path("/d")} | changes)
    assert (caught.value.key or "").split(".")[0] in changes


def test_options_in_code_are_checked_by_load() -> None:
    with pytest.raises(ConfigError, match=r"backends\.alpha\.segment"):
        load(StoreConfig(path=Path("/d"), backend="alpha", backends={"alpha": {"segment": 1}}))
    with pytest.raises(ConfigError, match="registered are"):
        load(StoreConfig(path=Path("/d"), backend="nosuch"))


# --- values -----------------------------------------------------------------------------------------------


def test_a_config_cannot_be_changed_afterwards() -> None:
    options = {"alpha": {"ratio": 0.5}}
    config = StoreConfig(path=Path("/d"), backends=options)
    options["alpha"]["ratio"] = 1.0
    assert config.backends["alpha"]["ratio"] == 0.5
    with pytest.raises(TypeError):
        config.backends["alpha"]["ratio"] = 2.0  # type: ignore[index]
    with pytest.raises(AttributeError):
        config.create = False  # type: ignore[misc]


def test_equal_configs_are_one_key_of_a_dict() -> None:
    one = StoreConfig(path=Path("/d"), backends={"alpha": {"tags": ["x"]}, "beta": {}})
    two = StoreConfig(path=Path("/d"), backends={"alpha": {"tags": ["x"]}})
    assert one == two
    assert len({one, two}) == 1
    assert one != msgspec.structs.replace(two, create=False)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("1B", 1),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("2 MiB", 2**21),
        ("3GB", 3 * 10**9),
        ("1TiB", 2**40),
    ],
)
def test_sizes_are_read_in_binary_and_decimal_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "KiB", "-1KiB", "1.5GiB", "1kib", "1iB", "1  KiB", "1KiB\n"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_size(text)


@given(st.integers(0, 2**63 - 1) | st.integers(0, 2**20).map(lambda n: n * 1024))
def test_a_written_size_is_read_as_the_same_number(size: int) -> None:
    written = format_size(size)
    assert (parse_size(written) if isinstance(written, str) else written) == size


# --- written down and loaded again ------------------------------------------------------------------------

byte_sizes = st.integers(1, 2**63 - 1) | st.integers(1, 2**20).map(lambda n: n * 2**20)
durations = st.integers(0, 86_400_000)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
configs = st.builds(
    StoreConfig,
    path=st.lists(names, min_size=1, max_size=3).map(lambda parts: Path("/", *parts)),
    backend=st.sampled_from(["segmented", "alpha", "beta", "gone"]),
    strategy=st.sampled_from([DiskFirst(), MemFirst(), MemFirst(sync_on_commit=True)]),
    flush_policy=st.just(Immediate())
    | st.builds(Batch, threshold=st.integers(1, 10**9), interval=st.integers(1, 86_400_000)),
    startup=st.sampled_from(["lazy", "preload"]),
    create=st.booleans(),
    limits=st.builds(
        Limits,
        cache_bytes=byte_sizes,
        memory_bytes_max=byte_sizes,
        pending_bytes_max=byte_sizes,
        entry_bytes_max=byte_sizes,
        write_bytes_max=byte_sizes,
        backpressure_timeout_ms=durations,
        lock_timeout_ms=durations,
    ),
    backends=st.fixed_dictionaries(
        {},
        optional={
            "alpha": st.fixed_dictionaries(
                {},
                optional={
                    "segment_bytes": st.integers(4096, 2**63 - 1),
                    "mode": st.sampled_from(["fast", "safe"]),
                    "ratio": st.floats(allow_nan=False, allow_infinity=False),
                    "eager": st.booleans(),
                    "room_bytes": st.integers(),
                    "cache_bytes": st.integers(0, 2**40),
                },
            ),
            "beta": st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), names, max_size=3),
        },
    ),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[*HealthCheck])
@given(config=configs)
def test_a_config_written_as_toml_loads_equal(tmp_path: Path, config: StoreConfig) -> None:
    file = tmp_path / "raftstore.toml"
    file.write_text(config.to_toml(), encoding="utf-8", newline="")
    loaded = load(file, NO_ENVIRONMENT)
    assert loaded == config == load(config)
    assert loaded.to_toml() == config.to_toml()


@settings(max_examples=100, deadline=None)
@given(config=configs)
def test_a_config_written_as_a_url_loads_equal(config: StoreConfig) -> None:
    assert load(config.to_url()) == config


def test_a_path_that_is_not_utf8_survives_a_url_and_is_refused_by_toml() -> None:
    config = StoreConfig(path=Path(os.fsdecode(b"/d/\xff?#% &")))
    assert load(config.to_url()) == config
    with pytest.raises(ConfigError, match="UTF-8"):
        config.to_toml()


def test_a_url_says_only_what_differs_from_the_defaults() -> None:
    assert StoreConfig(path=Path("/d")).to_url() == "segmented:///d"
    config = StoreConfig(path=Path("/d"), flush_policy=Batch(5, 6), limits=Limits(cache_bytes=2**20))
    assert config.to_url() == "segmented:///d?flush_policy=Batch:5:6&cache_bytes=1MiB"


def test_an_option_that_is_called_like_a_limit_is_written_with_its_backends_name() -> None:
    config = StoreConfig(path=Path("/d"), backend="alpha", backends={"alpha": {"cache_bytes": 5}})
    assert config.to_url() == "alpha:///d?backends.alpha.cache_bytes=5"


class Never:
    def due_s(self, pending: Pending) -> float:
        return 60.0


def test_a_flush_policy_of_ones_own_is_used_and_cannot_be_written_down() -> None:
    policy = Never()
    config = load(StoreConfig(path=Path("/d"), flush_policy=policy))
    assert config.flush_policy is policy
    for write in (config.to_toml, config.to_url):
        with pytest.raises(ConfigError, match=r"flush_policy: .*cannot be written down"):
            write()


def test_an_option_that_is_a_list_is_written_as_toml_only() -> None:
    config = StoreConfig(path=Path("/d"), backend="alpha", backends={"alpha": {"tags": ["a", "b"]}})
    assert "tags" in config.to_toml()
    with pytest.raises(ConfigError, match="use TOML"):
        config.to_url()


def test_an_option_that_toml_cannot_say_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="backends"):
        StoreConfig(path=Path("/d"), backends={"alpha": {"room_bytes": None}}).to_toml()
