"""Real HTTP, real nodes and ranks; the cluster is a stand-in whose pods are processes of this machine."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_kubernetes
import psutil
import pytest
import yaml
from fake_kubernetes import TOKEN, Cluster
from obeying import Note, ranks_of, request

from recsys_core import launch
from recsys_core.launch.launchers import _remote, kubernetes
from recsys_core.launch.launchers.kubernetes import connection as connecting
from recsys_core.launch.launchers.kubernetes.connection import connection
from recsys_core.launch.launchers.kubernetes.manifest import job_name, manifest
from recsys_core.progress import Event, silent

ROOT = Path(__file__).parents[4]
TRAIN_JOB = {"kind": "trainjob", "runtime": "dayline"}
PYTORCH_JOB = {
    "kind": "pytorchjob",
    "claims": [
        {"claim": "runs", "mount_path": "/shop"},
        {"claim": "runs", "mount_path": "/data", "read_only": True},
    ],
    "service_account": "trainer",
    "registry_account": "registry",
    "node_selector": {"zone": "a"},
}
JOBS = [TRAIN_JOB, PYTORCH_JOB]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    started = Cluster(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(started.kubeconfig()))
    for name in ("LOOK_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(_remote, name, 0.2)
    yield started
    started.close()


def config(job: dict[str, Any] = TRAIN_JOB, **keys: Any) -> kubernetes.Config:
    return kubernetes.Config.model_validate({"job": job, "image": "shop/dayline:1"} | keys)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job["kind"])
def test_two_pods_meet_on_loopback_and_their_progress_comes_back(
    stage: Path, cluster: Cluster, job: dict[str, Any]
) -> None:
    events: list[Event] = []
    secrets = [{"name": "AWS_SECRET_ACCESS_KEY", "object": "shop-s3", "key": "secret"}]
    asked = config(
        job, num_nodes=2, cpus_per_node=6, memory_per_node="64Gi", gpus_per_node=1, queue="night",
        environment={"TRY_PLAIN": "1"}, environment_from=secrets,
    )  # fmt: skip
    note = launch.run("note", Note, request(stage, "write", reads="s3://bucket/log"), events.append, asked)
    assert note.world_size == 2
    assert (stage / "secrets").read_text() == "AWS_SECRET_ACCESS_KEY TRY_PLAIN"
    messages = [event.message or "" for event in events]
    assert messages.count("6") == 2
    assert any(re.search(r"Job dayline-note-\w+: node 1 runs on ", message) for message in messages)
    assert "this is run" in (stage / "note.log").read_text()
    assert len(cluster.deleted) == 1


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job["kind"])
@pytest.mark.parametrize("by", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_task_deletes_the_job(
    stage: Path, cluster: Cluster, job: dict[str, Any], by: type[BaseException]
) -> None:
    def interrupt(event: Event) -> None:
        if event.done:
            raise by

    with pytest.raises(by):
        launch.run("note", Note, request(stage, "sleep"), interrupt, config(job))
    assert len(cluster.deleted) == 1
    assert not any(psutil.pid_exists(pid) for pid in ranks_of(stage))
    assert not (stage / "note").exists()


def test_what_the_stage_refuses_comes_back(stage: Path, cluster: Cluster) -> None:
    with pytest.raises(ValueError, match=r"^column 'x' is missing; add it$"):
        launch.run("note", Note, request(stage, "refuse"), silent, config())


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("ImagePullBackOff", "set launch.image to one that the cluster can pull"),
        ("CreateContainerConfigError", "launch.environment_from"),
    ],
)
def test_a_pod_that_waits_for_what_does_not_come_is_an_error(
    stage: Path, cluster: Cluster, reason: str, remedy: str
) -> None:
    cluster.waiting = (reason, "not found")
    expected = (
        rf"^note: TrainJob dayline-note-\w+ cannot begin: {reason}: not found \(image shop/dayline:1\); .*{remedy}"
    )
    with pytest.raises(ValueError, match=expected):
        launch.run("note", Note, request(stage, "write"), silent, config())
    assert len(cluster.deleted) == 1


@pytest.mark.parametrize("held_by", ["scheduler", "queue", "operator"])
def test_a_job_that_does_not_begin_in_time_is_deleted(stage: Path, cluster: Cluster, held_by: str) -> None:
    cluster.starts = False
    words = "0 of 1 pods are there"
    if held_by == "scheduler":
        cluster.unschedulable = words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    elif held_by == "queue":
        words = "suspended, as by a queue: Job is suspended"
        cluster.conditions = [{"type": "Suspended", "status": "True", "message": "Job is suspended"}]
    else:
        words = "ContainerCreating"
    with pytest.raises(
        ValueError, match=rf"launch.start_timeout_seconds = 0.5 \(.*{re.escape(words)}\); it is cancelled"
    ):
        launch.run("note", Note, request(stage, "write"), silent, config(start_timeout_seconds=0.5))
    assert len(cluster.deleted) == 1


def test_a_pod_that_fails_before_the_stage_begins_shows_its_log(
    stage: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_kubernetes.sys, "executable", "/usr/bin/env")  # which takes no -m
    ended = r"\(dayline-note-\w+-0: Error, exit code 12\d; a pod failed\)"
    expected = rf"note: PyTorchJob dayline-note-\w+ is lost {ended}: .*env.*; see .*note\.log$"
    with pytest.raises(RuntimeError, match=expected):
        launch.run("note", Note, request(stage, "write"), silent, config(PYTORCH_JOB))
    assert "env: " in (stage / "note.log").read_text()


def test_a_job_that_is_deleted_by_others_is_lost(stage: Path, cluster: Cluster) -> None:
    def delete(event: Event) -> None:
        if event.done:
            (name,) = cluster.jobs
            for process in cluster.processes.values():
                for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                    one.kill()
            cluster.delete(name)

    with pytest.raises(RuntimeError, match=r"is lost \(it was deleted\)"):
        launch.run("note", Note, request(stage, "sleep"), delete, config())


def test_an_api_that_is_away_for_a_moment_is_asked_again(stage: Path, cluster: Cluster) -> None:
    events: list[Event] = []

    def receive(event: Event) -> None:
        events.append(event)
        if event.message and event.message.endswith("submitted"):
            cluster.busy = 1

    launch.run("note", Note, request(stage, "write"), receive, config())
    assert any("is busy (503 apiserver is shutting down); asked again" in (event.message or "") for event in events)


def test_an_api_that_stays_away_ends_the_stage_and_says_what_may_be_left(
    stage: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_remote, "_AWAY_SECONDS", 0.0)
    events: list[Event] = []

    def receive(event: Event) -> None:
        events.append(event)
        if event.done:
            cluster.busy = 1_000

    with pytest.raises(RuntimeError, match="note: TrainJob .* cannot be followed: the Kubernetes API at .* is busy"):
        launch.run("note", Note, request(stage, "sleep"), receive, config())
    assert any("could not be cancelled" in (event.message or "") for event in events)
    assert not any(psutil.pid_exists(pid) for pid in ranks_of(stage))


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (
            (403, "trainjobs is forbidden"),
            "403 trainjobs is forbidden; let the account create, get and delete trainjobs",
        ),
        ((404, "the server could not find the requested resource"), "install Kubeflow's trainjobs"),
        ((401, "Unauthorized"), "401 Unauthorized; sign in again"),
        ((422, "admission webhook denied"), "422 admission webhook denied; look at launch in the config"),
        ((500, "etcd"), "is busy"),
    ],
)
def test_what_the_api_refuses_is_said_with_its_remedy(
    stage: Path, cluster: Cluster, refusal: tuple[int, str], message: str
) -> None:
    cluster.refusal = refusal
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        launch.run("note", Note, request(stage, "write"), silent, config())
    assert len(str(error.value).splitlines()) == 1
    assert not list((stage / "note.nodes").glob("*"))


def test_an_api_that_is_not_there_is_named(stage: Path, cluster: Cluster) -> None:
    cluster.server.shutdown()
    cluster.server.server_close()
    with pytest.raises(ValueError, match=r"note: the Kubernetes API at http://127.0.0.1:\d+ does not answer"):
        launch.run("note", Note, request(stage, "write"), silent, config())


def test_storage_that_the_pods_do_not_see_is_named(
    stage: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A container whose command is another's ends well, and writes nothing.
    monkeypatch.setattr(fake_kubernetes.sys, "executable", "/bin/true")
    with pytest.raises(ValueError, match="none of its nodes wrote to .*mount the storage of the run directory"):
        launch.run("note", Note, request(stage, "write"), silent, config())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"job": TRAIN_JOB | {"claims": []}}, "claims"),
        ({"job": {"kind": "pytorchjob", "claims": []}}, "at least 1 item"),
        ({"job": PYTORCH_JOB | {"runtime": "dayline"}}, "runtime"),
        ({"rendezvous_endpoint": "a:1"}, "rendezvous_endpoint"),
        ({"memory_per_node": "64 GB"}, "memory_per_node"),
        ({"environment": {"API_TOKEN": "x"}}, "put it into a Secret of the namespace"),
        ({"environment": {"A": "x"}, "environment_from": [{"name": "A", "object": "s", "key": "k"}]}, "A is set twice"),
    ],
)
def test_keys_that_are_not_read_or_not_taken_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**keys)


def test_no_secret_is_in_a_manifest() -> None:
    secrets = [{"name": "AWS_SECRET_ACCESS_KEY", "object": "shop-s3", "key": "secret"}]
    job = manifest(config(PYTORCH_JOB, environment_from=secrets), "train", "abc", ["python"])
    pod = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    (variable,) = pod["containers"][0]["env"]
    assert variable == {
        "name": "AWS_SECRET_ACCESS_KEY",
        "valueFrom": {"secretKeyRef": {"name": "shop-s3", "key": "secret"}},
    }
    assert [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]] == ["/shop", "/data", "/dev/shm"]
    assert len(pod["volumes"]) == 2


def test_names_of_jobs_are_taken() -> None:
    assert job_name("rank_check_bundle", "0123456789ab") == "dayline-rank-check-bundle-0123456789ab"
    assert len(job_name("x" * 99, "0123456789ab")) == 40


class TestConnection:
    def test_a_plugin_is_asked_again_when_its_token_is_refused(self, cluster: Cluster, monkeypatch) -> None:
        once = cluster.folder / "once"
        code = (
            "import json, os, pathlib; once = pathlib.Path(os.environ['ONCE']);"
            f"token = {TOKEN!r} if once.exists() else 'old'; once.touch();"
            "assert json.loads(os.environ['KUBERNETES_EXEC_INFO'])['kind'] == 'ExecCredential';"
            "print(json.dumps({'status': {'token': token}}))"
        )
        plugin = {"command": sys.executable, "args": ["-c", code], "env": [{"name": "ONCE", "value": str(once)}]}
        cluster.kubeconfig(exec=plugin)
        from recsys_core.launch.launchers.kubernetes.api import Api

        assert Api(connection(None), "shop", "kubeflow.org/v1", "pytorchjobs").job("none") is None
        assert [line.split()[-2] for line in cluster.requests] == ["401", "404"]

    @pytest.mark.parametrize(
        ("user", "message"),
        [
            ({"username": "u", "password": "p"}, "signs in by auth-provider or password"),
            ({"exec": {"command": "/nowhere/aws"}}, "/nowhere/aws gives no token"),
            ({"exec": {"command": sys.executable, "args": ["-c", "raise SystemExit('expired')"]}}, "no token: expired"),
        ],
    )
    def test_a_user_that_cannot_sign_in_is_named(self, stage, cluster: Cluster, user, message) -> None:
        cluster.kubeconfig(**user)
        with pytest.raises(ValueError, match=message):
            launch.run("note", Note, request(stage, "write"), silent, config())

    def test_a_context_that_is_not_there_is_named(self, cluster: Cluster) -> None:
        with pytest.raises(ValueError, match=r"launch.context: .* has no context 'there' among its contexts \(here\)"):
            connection("there")

    def test_no_kubeconfig_and_a_damaged_one_are_named(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
        with pytest.raises(ValueError, match="no kubeconfig at .*none, and this is no pod"):
            connection(None)
        (tmp_path / "none").write_text("contexts: [{}]")
        with pytest.raises(ValueError, match="none: no kubeconfig"):
            connection(None)

    def test_a_server_that_is_not_checked_is_refused(self, cluster: Cluster) -> None:
        path = cluster.kubeconfig()
        sections = json.loads(path.read_text())
        sections["clusters"][0]["cluster"] = {"server": "https://h", "insecure-skip-tls-verify": True}
        path.write_text(json.dumps(sections))
        with pytest.raises(ValueError, match="set certificate-authority"):
            connection(None)

    def test_a_pod_signs_in_as_its_service_account(self, cluster: Cluster, monkeypatch, tmp_path: Path) -> None:
        import ssl

        account = tmp_path / "account"
        account.mkdir()
        for name, text in (("token", TOKEN), ("namespace", "shop\n"), ("ca.crt", "")):
            (account / name).write_text(text)
        monkeypatch.setattr(connecting, "_ACCOUNT", account)
        monkeypatch.setattr(ssl, "create_default_context", lambda cafile: cafile)
        for host, server in (("10.0.0.1", "https://10.0.0.1:443"), ("fd00::1", "https://[fd00::1]:443")):
            monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
            monkeypatch.delenv("KUBERNETES_SERVICE_PORT", raising=False)
            found = connection(None)
            assert (found.server, found.namespace, found.verify) == (server, "shop", str(account / "ca.crt"))


def test_the_account_of_the_example_may_do_what_is_done() -> None:
    documents = list(yaml.safe_load_all((ROOT / "deployments/launch-kubernetes.yaml").read_text()))
    (role,) = [one for one in documents if one["kind"] == "Role"]
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    jobs = [("trainer.kubeflow.org", "trainjobs"), ("kubeflow.org", "pytorchjobs")]
    assert {(*job, verb) for job in jobs for verb in ("create", "get", "delete")} <= allowed
    assert {("", "pods", "list"), ("", "pods/log", "get")} <= allowed


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job["kind"])
def test_a_config_goes_through_yaml(job: dict[str, Any]) -> None:
    asked = config(job, num_nodes=2)
    assert kubernetes.Config.model_validate(yaml.safe_load(yaml.safe_dump(asked.model_dump(mode="json")))) == asked
