"""Registry: with its Run the one door to MLflow. Versions are published, resolved, fetched and promoted here."""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.artifact import MANIFEST_FILE, sha256_of
from training.reach import require_reachable
from training.run import RegistryError as RegistryError
from training.run import Run as Run
from training.run import asking

DIGEST_TAG = "tandem.digest"
IDENTITY_TAG = "tandem.identity"
PARENT_TAG = "mlflow.parentRunId"  # MLflow's own


@dataclass(frozen=True)
class Version:
    """One registered folder; `digest` is the sha256 of its identity file, as MLflow keeps it."""

    name: str
    number: int
    digest: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.number}"


class Registry:
    """MLflow at `tracking_uri`, or at the environment's MLFLOW_TRACKING_URI."""

    def __init__(self, tracking_uri: str | None = None) -> None:
        address = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        if not address:
            raise RegistryError("MLFLOW_TRACKING_URI is not set: set it to the address that `make up` prints")
        try:
            require_reachable(address)
        except ConnectionError as error:
            raise RegistryError(
                f"no MLflow server answers at {address} ({error}): start one or set MLFLOW_TRACKING_URI"
            ) from error
        _quiet_mlflow()
        from mlflow import MlflowClient

        self.tracking_uri = address
        self._client = MlflowClient(address, address)

    def start_run(self, experiment: str, name: str, tags: Mapping[str, str], parent: "Run | None" = None) -> "Run":
        """`parent` is the run that this one is shown below."""
        tags = {**tags, PARENT_TAG: parent.run_id} if parent else tags
        with asking(f"start a run of {experiment!r}"):
            found = self._client.get_experiment_by_name(experiment)
            experiment_id = self._create_experiment(experiment) if found is None else found.experiment_id
            run = self._client.create_run(experiment_id, run_name=name, tags=dict(tags))
        return Run(self._client, run.info.run_id)

    def status(self, run_id: str) -> str | None:
        """How a run stands, as MLflow spells it (RUNNING, FINISHED, ...); None where there is none, or no longer."""
        from mlflow.exceptions import MlflowException

        with asking(f"ask for run {run_id}"):
            try:
                run = self._client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None
        return str(run.info.status) if run.info.lifecycle_stage == "active" else None

    def run(self, run_id: str) -> "Run":
        return Run(self._client, run_id)

    def publish(
        self, name: str, folder: Path, run: "Run", tags: Mapping[str, str], identity: str = MANIFEST_FILE
    ) -> Version:
        """Register `folder` as the next Version of `name`; its files are uploaded first, so a failure registers none.

        `identity` is the file whose sha256 stands for the whole folder.
        """
        if not (folder / identity).is_file():
            raise RegistryError(f"cannot publish {folder} as {name!r}: it holds no {identity}")
        digest = sha256_of(folder / identity)
        path = f"versions/{digest[:16]}"
        with asking(f"publish {folder} as {name!r}"):
            self._client.log_artifacts(run.run_id, str(folder), path)
            self._create_model(name)
            source = f"{self._client.get_run(run.run_id).info.artifact_uri}/{path}"
            made = self._client.create_model_version(
                name, source, run.run_id, tags={**tags, DIGEST_TAG: digest, IDENTITY_TAG: identity}
            )
        return _version(made)

    def resolve(self, reference: str) -> Version:
        """`name@alias` or `name@number` -> Version; raises RegistryError saying what the name does have."""
        from mlflow.exceptions import MlflowException

        name, _, wanted = reference.partition("@")
        if not name or not wanted:
            raise RegistryError(f"{reference!r} is no reference: write name@alias or name@number")
        try:
            if wanted.isdecimal():
                return _version(self._client.get_model_version(name, wanted))
            return _version(self._client.get_model_version_by_alias(name, wanted))
        except MlflowException as error:
            unknown = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
            raise RegistryError(
                f"{reference!r} is not in the registry at {self.tracking_uri}: "
                f"{self._offer(name) if unknown else error.message}"
            ) from error

    def fetch(self, version: Version, cache_dir: Path) -> Path:
        """The folder of `version`, downloaded once into `cache_dir` and checked against MLflow's digest."""
        identity = version.tags.get(IDENTITY_TAG, MANIFEST_FILE)
        folder = cache_dir / version.digest
        if not folder.is_dir():
            cache_dir.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".fetch-", dir=cache_dir))
            try:
                self._download(version, scratch)
                try:
                    (scratch / "folder").rename(folder)
                except OSError:
                    if not folder.is_dir():  # another process fetched it meanwhile: its copy serves as well
                        raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        found = sha256_of(folder / identity) if (folder / identity).is_file() else "missing"
        if found != version.digest:
            shutil.rmtree(folder, ignore_errors=True)
            raise RegistryError(
                f"{version.reference}: {identity} has sha256 {found[:12]}, MLflow says {version.digest[:12]}: "
                "the stored folder is not the one that was published"
            )
        return folder

    def promote(self, name: str, number: int, alias: str) -> None:
        with asking(f"point {name}@{alias} to version {number}"):
            self._client.set_registered_model_alias(name, alias, str(number))

    def aliases(self, name: str) -> dict[str, int]:
        """Alias -> number of the Version of `name` that it points to."""
        with asking(f"read the aliases of {name!r}"):
            found = self._client.get_registered_model(name).aliases
        return {alias: int(number) for alias, number in found.items()}

    def drop_alias(self, name: str, alias: str) -> None:
        with asking(f"drop the alias {name}@{alias}"):
            self._client.delete_registered_model_alias(name, alias)

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        with asking(f"tag {version.reference}"):
            for key, value in tags.items():
                self._client.set_model_version_tag(version.name, str(version.number), key, value)

    def read_note(self, name: str, key: str) -> str | None:
        """What `write_note` kept with the registered model as a whole; None where there is nothing."""
        with asking(f"read {key} of {name!r}"):
            found = self._client.get_registered_model(name).tags.get(key)
        return None if found is None else str(found)

    def write_note(self, name: str, key: str, value: str | None) -> None:
        """Keep `value` with the registered model; None takes it away."""
        with asking(f"write {key} of {name!r}"):
            if value is None:
                self._client.delete_registered_model_tag(name, key)
            else:
                self._client.set_registered_model_tag(name, key, value)

    def find(self, name: str, digest: str) -> Version | None:
        """The newest Version of `name` with this digest, if there is one."""
        with asking(f"look for {digest[:12]} among the versions of {name!r}"):
            found = self._client.search_model_versions(f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'")
        return _version(max(found, key=lambda entity: int(entity.version))) if found else None

    def list_artifacts(self, run_id: str, folder: str) -> tuple[str, ...]:
        """The paths of the files that lie in a folder of a run's artifacts; none where there is no such folder."""
        with asking(f"list {folder} of run {run_id}"):
            return tuple(str(item.path) for item in self._client.list_artifacts(run_id, folder) if not item.is_dir)

    def read_artifact(self, run_id: str, path: str) -> bytes:
        """The content of one artifact file of a run; raises RegistryError where there is none."""
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as scratch:
            try:
                return Path(self._client.download_artifacts(run_id, path, scratch)).read_bytes()
            except (MlflowException, OSError) as error:
                raise RegistryError(f"run {run_id} has no artifact {path!r}: {error}") from error

    def _create_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.create_experiment(name))
        except MlflowException:  # made by another process meanwhile
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _create_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _offer(self, name: str) -> str:
        """What there is in place of a reference that was not found."""
        with asking("list the registered models"):
            models = {model.name: model for model in self._client.search_registered_models()}
        if name not in models:
            return f"it has {', '.join(models) or 'no models yet'}"
        aliases = ", ".join(f"{alias} ({number})" for alias, number in sorted(models[name].aliases.items()))
        newest = max((int(version.version) for version in models[name].latest_versions), default=0)
        return f"{name} has versions up to {newest} and the aliases {aliases or 'none'}"

    def _download(self, version: Version, scratch: Path) -> None:
        import mlflow.artifacts
        from mlflow.exceptions import MlflowException

        uri = self._client.get_model_version_download_uri(version.name, str(version.number))
        (scratch / "parts").mkdir()
        try:
            got = mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=str(scratch / "parts"), tracking_uri=self.tracking_uri
            )
        except (MlflowException, OSError) as error:
            raise RegistryError(f"{version.reference} cannot be downloaded from {uri}: {error}") from error
        Path(got).rename(scratch / "folder")


def _version(entity: Any) -> Version:
    tags = dict(entity.tags)
    digest, identity = tags.get(DIGEST_TAG, ""), tags.get(IDENTITY_TAG, MANIFEST_FILE)
    # Both become paths when the Version is fetched, so nothing but a hash and a plain file name will do.
    if not re.fullmatch("[0-9a-f]{64}", digest) or identity in ("", "..") or Path(identity).name != identity:
        raise RegistryError(
            f"{entity.name}@{entity.version} was not published by Tandem: "
            f"its tag {DIGEST_TAG} is {digest!r}, {IDENTITY_TAG} {identity!r}"
        )
    return Version(entity.name, int(entity.version), digest, entity.run_id, tags)


def _quiet_mlflow() -> None:
    """MLflow tells every step of an upload on the terminal; what matters to a user, our commands say themselves."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
