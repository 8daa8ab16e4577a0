"""W&B's interface for reports: a few GraphQL requests with an API key, without wandb."""

from __future__ import annotations

import base64
import http.client
import json
import re
import urllib.error
import urllib.request
from typing import Any

from manifoldgd.errors import UserError, require
from manifoldgd.tracking.account import CLOUD, server

SECONDS = 20.0  # until a request counts as unanswered
APPLICATION = "https://wandb.ai"  # where people look at what lies at CLOUD; elsewhere both have one address

VIEWER = "query Viewer { viewer { entity } }"
PROJECT = """query ProjectInternalId($projectName: String!, $entityName: String!) {
  project(name: $projectName, entityName: $entityName) { internalId }
}"""
UPSERT = """mutation upsertView(
  $id: ID, $entityName: String, $projectName: String, $type: String, $name: String,
  $displayName: String, $description: String, $spec: String!
) {
  upsertView(input: {
    id: $id, entityName: $entityName, projectName: $projectName, type: $type, name: $name,
    displayName: $displayName, description: $description, createdUsing: WANDB_SDK, spec: $spec
  }) { view { id } inserted }
}"""


class Interface:
    """One W&B server, one account.

    Args:
        key: API key.

    Every method raises :class:`UserError` if the server cannot be reached or refuses.
    """

    def __init__(self, key: str) -> None:
        self.address = server()
        self.key = key

    def default_entity(self) -> str:
        """The account's own user or team."""
        viewer = self._ask(VIEWER, {}).get("viewer")
        require(bool(viewer), f"W&B: {self.address} does not know this API key; run `wandb login`")
        return viewer["entity"]

    def project_id(self, entity: str, project: str) -> str:
        """W&B's own number of a project."""
        found = self._ask(PROJECT, {"entityName": entity, "projectName": project}).get("project")
        if not found:
            raise UserError(
                f"logger.project: {entity}/{project} does not exist on {self.address}; upload the table's runs first "
                "(`wandb sync outputs/wandb/*run-*`), or correct logger.project and logger.entity"
            )
        return found["internalId"]

    def save_report(self, view: dict[str, Any]) -> str:
        """Create a report, or replace the one with ``view["id"]``; returns its id.

        ``view`` has the names of the mutation's variables; its ``spec`` is an object here.
        """
        answer = self._ask(UPSERT, {**view, "spec": json.dumps(view["spec"])})
        return answer["upsertView"]["view"]["id"]

    def report_address(self, entity: str, project: str, title: str, report: str) -> str:
        """Where people find a report."""
        application = APPLICATION if self.address == CLOUD else self.address
        slug = re.sub(r"[^\w]+", "-", title).strip("-")
        return f"{application}/{entity}/{project}/reports/{slug}--{report.rstrip('=')}"

    def _ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        account = base64.b64encode(f"api:{self.key}".encode()).decode()
        request = urllib.request.Request(
            f"{self.address}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Basic {account}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            hint = "run `wandb login`" if error.code in (401, 403) else "try again later"
            raise UserError(f"W&B: {self.address} refuses ({error.code} {error.reason}); {hint}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise UserError(f"W&B: {self.address} cannot be reached ({reason}); try again later") from error
        problems = answer.get("errors") if isinstance(answer, dict) else [{"message": "no answer of an interface"}]
        if problems:
            raise UserError(f"W&B: {self.address} refuses: {problems[0].get('message')}")
        return answer.get("data") or {}
