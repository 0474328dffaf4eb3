"""Settings of the server: a YAML file, then FEATHERWIRE_* variables, then flags; the last wins."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)
from sqlalchemy import URL

from cloud_server.serve.settings_file import SettingsFile, complaint, read_settings_file
from shared.cli import split_names
from shared.errors import FeatherwireError, StorageError
from shared.rpc.tls_files import check_tls_files
from shared.wire.transport import DEADLINE_PER_MEGAPIXEL_S, MAX_MESSAGE_BYTES

CONFIG_VARIABLE = "FEATHERWIRE_CONFIG"


class ServerSettings(BaseSettings):
    """Settings of `featherwire-cloud serve`; lists in variables are comma-separated."""

    model_config = SettingsConfigDict(
        env_prefix="FEATHERWIRE_", env_ignore_empty=True, extra="forbid", frozen=True
    )

    # Where and what
    listen: str = Field(
        default="127.0.0.1:7570", description="HOST:PORT; port 0 chooses a free one"
    )
    metrics: str | None = Field(
        default=None, description="HOST:PORT of /metrics for Prometheus; none: not served"
    )
    console: str | None = Field(
        default=None, description="HOST:PORT of the operator's console; none: not served"
    )
    console_root_path: str = Field(
        default="",
        description="where a proxy serves the console, as /fw; none: as X-Forwarded-Prefix says",
    )
    bundle: str | None = Field(
        default=None, description="that clients shall use: folder, zip or name; none: the packaged"
    )
    bundles: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        default=None, description="those served beside it; none: the others that are packaged"
    )
    tasks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("detection", "segmentation", "landmarks"),
        description="tasks on pictures to open at start-up; those on features come with a bundle",
    )
    detector: str | None = Field(
        default=None, description="back end of detection, such as yolo11n.pt; none: the embedded"
    )
    segmenter: str | None = Field(
        default=None, description="back end of segmentation, such as yolo11n-seg.pt"
    )
    shown_score: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="score from which results show everything; none: as tasks and bundles say",
    )
    device: str = Field(default="cpu", description="where torch runs: cpu, cuda, cuda:1")
    models_dir: Path | None = Field(default=None, description="where weights lie, beside the cache")

    # Workers: processes, and the threads of each
    workers: int = Field(
        default=0,
        ge=0,
        le=256,
        description="processes that analyse frames; 0: threads of the server's own",
    )
    engine: Literal["local", "process", "ray"] | None = Field(
        default=None,
        description="where frames are analysed; none: in `workers`, else in the server's threads",
    )
    decode_workers: int = Field(default=1, ge=1, le=64)
    reconstruct_workers: int = Field(default=1, ge=1, le=64)
    task_workers: int = Field(default=1, ge=1, le=64, description="threads and models a task")
    picture_workers: int = Field(default=1, ge=1, le=64)
    torch_threads: int | None = Field(
        default=None, ge=1, le=256, description="none: torch's own, or the cores by `workers`"
    )
    queue_size: int = Field(default=16, ge=1, le=1024, description="items inside one stage")
    max_batch: int = Field(default=4, ge=1, le=256, description="frames a reconstruction")
    max_batch_delay_s: float = Field(default=0.005, ge=0, le=1)

    # Ray: replicas of the engine on a cluster (`engine: ray`; cloud_server.engine.ray.application)
    ray_address: str = Field(
        default="auto", description="HOST:PORT of the cluster; auto: the one on this machine"
    )
    ray_min_replicas: int = Field(default=1, ge=1, le=10_000)
    ray_max_replicas: int = Field(default=4, ge=1, le=10_000)
    ray_num_cpus: float = Field(default=1.0, ge=0, le=256, description="of a replica")
    ray_num_gpus: float = Field(
        default=0.0, ge=0, le=64, description="of a replica; 0.25: four replicas share a GPU"
    )
    ray_target_ongoing: float = Field(
        default=4.0, gt=0, le=1024, description="frames a replica at which there are to be more"
    )
    ray_max_ongoing: int = Field(default=8, ge=1, le=1024, description="frames a replica at most")
    ray_max_in_flight: int = Field(
        default=64, ge=1, le=100_000, description="frames that this server gives to the cluster"
    )

    # Refinement: what the server asks for after a doubtful detection
    refine_band: Annotated[tuple[float, float] | None, NoDecode] = Field(
        default=None, description="scores, low:high; none: it never asks"
    )
    refine_bundle: str | None = Field(
        default=None, description="name or id of a bundle served; none: the first"
    )
    refine_state: int = Field(default=0, ge=0, le=255)

    # Bounds
    max_streams: int = Field(default=256, ge=1, le=100_000)
    max_calls: int = Field(default=16, ge=1, le=10_000, description="unary calls at once")
    credits: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="in flight a stream: frames that are analysed",
    )
    kept_credits: int = Field(
        default=256, ge=1, le=1024, description="in flight a stream: frames that are only kept"
    )
    max_message_bytes: int = Field(default=MAX_MESSAGE_BYTES, ge=2**16, le=MAX_MESSAGE_BYTES)
    max_pixels_in_flight: int = Field(default=128 * 2**20, ge=2**16, description="a stream")
    max_bytes_in_flight: int = Field(default=64 * 2**20, ge=2**16, description="a stream")
    frame_deadline_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="for pictures up to a megapixel, from when their turn has come",
    )
    deadline_per_megapixel_s: float = Field(
        default=DEADLINE_PER_MEGAPIXEL_S, ge=0, le=3600, description="for every further one"
    )
    write_timeout_s: float = Field(default=30.0, gt=0, le=3600, description="for a client to read")
    drain_deadline_s: float = Field(default=20.0, ge=0, le=3600)
    dedupe_window: int = Field(
        default=2**16, ge=1, le=2**24, description="by how much a frame may be late, in frames"
    )
    kept_pictures: int = Field(
        default=64, ge=0, le=2**16, description="a session; for a device that did not get them"
    )
    kept_picture_bytes: int = Field(default=64 * 2**20, ge=0, description="of all sessions")
    reuse_results: bool = Field(
        default=True,
        description="a predicted frame in which no value has changed has the last one's result",
    )
    reference_bytes: int = Field(
        default=256 * 2**20,
        ge=0,
        description="of memory for what predicted frames refer to, of all sessions",
    )
    max_subscribers: int = Field(default=64, ge=1, le=10_000, description="of results, at once")
    subscriber_buffer: int = Field(
        default=1024, ge=16, le=2**20, description="results that a subscriber may be behind"
    )

    # The log of frames and results
    data: Path | None = Field(
        default=None,
        description="folder of the log; none: featherwire in $XDG_DATA_HOME, or in ~/.local/share",
    )
    database: SecretStr | None = Field(
        default=None, description="postgresql://USER:PASSWORD@HOST/NAME, in place of the folder"
    )
    shared_log: bool = Field(
        default=False, description="other servers write to the same PostgreSQL database"
    )
    sqlite_synchronous: Literal["full", "normal"] = Field(
        default="full", description="normal: faster; a loss of power may take the last frames"
    )
    keep_days: float | None = Field(
        default=None, gt=0, description="age at which frames and results are forgotten"
    )
    keep_bytes: int | None = Field(
        default=None, ge=2**20, description="of frames and results; the oldest are forgotten"
    )

    keep_session_days: float | None = Field(
        default=None,
        gt=0,
        description="idle sessions of which nothing else is kept are forgotten; none: keep_days",
    )
    keep_audit_days: float | None = Field(
        default=365, gt=0, description="age at which entries of the audit are forgotten"
    )
    keep_audit_entries: int | None = Field(default=100_000, ge=1)
    keep_command_days: float | None = Field(
        default=90, gt=0, description="since a command was answered; others are kept"
    )
    keep_commands: int | None = Field(default=100_000, ge=1, description="answered ones")

    # Who is let in: TLS, PEM files, and callers with tokens
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = Field(
        default=None, description="only clients with a certificate of this CA are let in"
    )
    insecure: bool = Field(
        default=False, description="no tokens, and no TLS without a certificate; on loopback only"
    )
    insecure_anywhere: bool = Field(
        default=False, description="insecure also where others than this machine reach it"
    )

    # What one device may send, however many sessions it has; none: as much as it can
    quota_frames: float | None = Field(default=None, gt=0, description="a second")
    quota_bytes: float | None = Field(default=None, gt=0, description="a second")
    quota_pixels: float | None = Field(default=None, gt=0, description="a second")
    quota_burst_s: float = Field(
        default=5.0, gt=0, le=3600, description="of which so much may come at once"
    )

    # Logs, on stderr
    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def load(cls, config: Path | None = None, **flags: Any) -> ServerSettings:
        """Settings from a file, the environment and ``flags`` (None is "not given").

        The file is ``config``, or what FEATHERWIRE_CONFIG names. Raises
        ``FeatherwireError("invalid_settings")`` with every complaint, one a line.
        """
        variable = os.environ.get(CONFIG_VARIABLE, "").strip()
        named = config or (Path(variable) if variable else None)
        if named is not None and not named.is_file():
            raise FeatherwireError("invalid_settings", f"no config file {named}")
        file = None if named is None else read_settings_file(named)
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            return _settings_class(named)(**given)
        except ValidationError as error:
            complaints = [
                complaint(item, _where(item, given, file), cls.model_fields)
                for item in error.errors(include_url=False)
            ]
            raise FeatherwireError("invalid_settings", "\n".join(complaints)) from None
        except Exception as error:  # noqa: BLE001  # pydantic-settings' own kinds
            reason = str(error).splitlines()[0]
            cause = f": {error.__cause__}" if error.__cause__ else ""
            where = "" if file is None else f"{file.path}: "
            raise FeatherwireError("invalid_settings", f"{where}{reason}{cause}") from None

    @property
    def database_url(self) -> str:
        """Where the log is, as SQLAlchemy's URL; it may hold a password."""
        if self.database is not None:
            return self.database.get_secret_value()
        folder = self.data or default_data_folder()
        return URL.create("sqlite", database=str(folder.absolute() / "log.db")).render_as_string()

    def make_data_folder(self) -> None:
        """Create the log's folder, where the log is in one. Raises ``StorageError``."""
        if self.database is None:
            folder = self.data or default_data_folder()
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                reason = error.strerror or str(error)
                raise StorageError("unavailable", f"{folder} cannot be used: {reason}") from None

    @field_validator("listen", "metrics", "console")
    @classmethod
    def _host_and_port(cls, listen: str | None) -> str | None:
        if listen is None:
            return None
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError("is HOST:PORT, such as 127.0.0.1:7570 or [::]:7570")
        return listen

    @field_validator("tasks", "bundles", mode="before")
    @classmethod
    def _split(cls, names: Any) -> Any:
        return split_names(names) if isinstance(names, str) else names

    @field_validator("refine_band", mode="before")
    @classmethod
    def _split_band(cls, band: Any) -> Any:
        return tuple(band.split(":")) if isinstance(band, str) else band

    @field_validator("refine_band")
    @classmethod
    def _ordered_band(cls, band: tuple[float, float] | None) -> tuple[float, float] | None:
        if band is not None and not 0 <= band[0] <= band[1] <= 1:
            raise ValueError("is LOW:HIGH with 0 <= LOW <= HIGH <= 1, such as 0.3:0.6")
        return band

    @model_validator(mode="after")
    def _one_engine(self) -> ServerSettings:
        if self.shared_log and self.database is None:
            raise ValueError("shared_log needs `database`, a PostgreSQL")
        if self.engine == "process" and self.workers == 0:
            raise ValueError("engine process needs `workers`")
        if self.engine in {"local", "ray"} and self.workers:
            raise ValueError(f"engine {self.engine} has no `workers`")
        if self.ray_min_replicas > self.ray_max_replicas:
            raise ValueError("ray_min_replicas is more than ray_max_replicas")
        if self.ray_target_ongoing > self.ray_max_ongoing:
            raise ValueError("ray_target_ongoing is more than ray_max_ongoing")
        return self

    @model_validator(mode="after")
    def _whole_tls(self) -> ServerSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        try:
            check_tls_files(
                ca=self.tls_client_ca, certificate=self.tls_certificate, key=self.tls_key
            )
        except FeatherwireError as error:
            raise ValueError(error.message) from None
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls)


def default_data_folder() -> Path:
    """The folder of a server's log where the settings name none."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "featherwire"


def _where(item: Mapping[str, Any], flags: Mapping[str, Any], file: SettingsFile | None) -> str:
    """What set the setting that a complaint is about: a variable, or the file; "" for a flag.

    A complaint about several settings together is of the file when the file has one that it names.
    """
    if not item["loc"]:
        return "" if file is None or not _of_file(item, flags, file) else str(file.path)
    name = str(item["loc"][0])
    if name in flags:
        return ""
    for variable, value in os.environ.items():
        if variable.upper() == f"FEATHERWIRE_{name.upper()}" and value:
            return variable
    return "" if file is None else file.at(name)


def _of_file(item: Mapping[str, Any], flags: Mapping[str, Any], file: SettingsFile) -> bool:
    """Whether a complaint names a setting of the file, or what the file sets it to."""
    words = set(re.findall(r"\w+", item["msg"]))
    values = item["input"] if isinstance(item["input"], Mapping) else {}
    for name in file.lines.keys() - flags.keys():
        value = values.get(name)
        if name in words or (isinstance(value, str) and value and value in item["msg"]):
            return True
    return False


def _settings_class(config: Path | None) -> type[ServerSettings]:
    """ServerSettings that also reads ``config``: pydantic-settings has the path in the class."""

    class WithFile(ServerSettings):
        model_config = SettingsConfigDict(yaml_file=config, yaml_file_encoding="utf-8")

    return WithFile
