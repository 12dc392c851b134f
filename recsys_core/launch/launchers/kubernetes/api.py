"""The calls of the Kubernetes API that a job needs."""

from typing import Any

import httpx

from recsys_core.launch.launchers._remote import AwayError
from recsys_core.launch.launchers.kubernetes.connection import Connection

_TIMEOUT_SECONDS = 20.0
_BUSY = (httpx.codes.TOO_MANY_REQUESTS,)


class Api:
    """Jobs of one kind in one namespace, and their pods."""

    def __init__(self, connection: Connection, namespace: str, group: str, plural: str) -> None:
        """`group` is with its version, as `kubeflow.org/v1`."""
        self._server, self._namespace, self._plural = connection.server, namespace, plural
        self._jobs = f"/apis/{group}/namespaces/{namespace}/{plural}"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._client = httpx.Client(
            base_url=connection.server, verify=connection.verify, auth=connection.auth, timeout=_TIMEOUT_SECONDS
        )

    def create(self, manifest: Any) -> None:
        """Create a job.

        Raises:
            ValueError: the API does not take it; see `_call`.
        """
        self._call("POST", self._jobs, json=manifest)

    def job(self, name: str) -> dict[str, Any] | None:
        """Return a job; None if there is none of that name."""
        found = self._call("GET", f"{self._jobs}/{name}", absent=True)
        return None if found is None else found.json()

    def delete(self, name: str) -> None:
        """Delete a job and its pods, if it is there."""
        self._call("DELETE", f"{self._jobs}/{name}", params={"propagationPolicy": "Background"}, absent=True)

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """Return the pods with these labels."""
        found = self._call("GET", self._pods, params={"labelSelector": selector})
        assert found is not None, "an empty list is no absence"
        return found.json()["items"]

    def log(self, pod: str, num_lines: int) -> str:
        """Return the end of what a pod wrote; nothing where it has not begun, or is gone."""
        try:
            found = self._call("GET", f"{self._pods}/{pod}/log", params={"tailLines": num_lines}, absent=True)
        except ValueError:
            return ""
        return "" if found is None else found.text

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _call(self, method: str, path: str, *, absent: bool = False, **details: Any) -> httpx.Response | None:
        """Return the answer; None where there is no such thing and that is one (`absent`).

        Raises:
            AwayError: the API does not answer, or cannot just now.
            ValueError: it refuses; says why, and what to change.
        """
        try:
            answer = self._client.request(method, path, **details)
        except httpx.TransportError as error:
            raise AwayError(f"the Kubernetes API at {self._server} does not answer ({error})") from error
        if answer.is_success:
            return answer
        if answer.status_code == httpx.codes.NOT_FOUND and absent:
            return None
        message = f"{answer.status_code} {_message(answer)}"
        if answer.is_server_error or answer.status_code in _BUSY:
            raise AwayError(f"the Kubernetes API at {self._server} is busy ({message})")
        raise ValueError(f"the Kubernetes API refuses: {message}; {self._remedy(answer.status_code)}")

    def _remedy(self, status: int) -> str:
        if status == httpx.codes.UNAUTHORIZED:
            return "sign in again, or set launch.context to another context of the kubeconfig"
        if status == httpx.codes.FORBIDDEN:
            return (
                f"let the account create, get and delete {self._plural}, and get pods and pods/log, in namespace "
                f"{self._namespace}: see deployments/launch-kubernetes.yaml"
            )
        if status == httpx.codes.NOT_FOUND:
            return (
                f"install Kubeflow's {self._plural} in the cluster, or choose the other launch.job.kind; is there a "
                f"namespace {self._namespace}?"
            )
        return "look at launch in the config"


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"]).replace("\n", " ")
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase
