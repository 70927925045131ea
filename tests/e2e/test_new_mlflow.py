"""The checklist for a new release of MLflow names what is to be decided.

What it says about 3.18.0 compared with 3.17.2 is what that release took, whatever the tables have learnt since.
"""

import copy
import subprocess
import tomllib
from importlib.metadata import version

import pytest

from harness import ROOT
from known_routes import Table
from new_mlflow import Surface, checklist, compare
from request_schema import REQUESTS, Rows

OURS = version("mlflow")
SKILLS = "/api/3.0/mlflow/skills"

pytestmark = [pytest.mark.versions, pytest.mark.timeout(900)]


def lines_of(text):
    """The items without their box: a tick only says that the tables have it by now."""
    return [line[6:] for line in text.splitlines() if line.startswith(("- [ ] ", "- [x] "))]


@pytest.fixture(scope="module")
def ours():
    return Surface.of(OURS)


def difference(before, after):
    return lines_of(compare(before, after, Table(), Rows(), tomllib.loads(REQUESTS.read_text())).text())


def test_a_release_differs_from_itself_in_nothing(ours):
    lines = [line for line in difference(ours, ours) if "names" not in line and "in src/" not in line and "in tests/" not in line]
    assert not lines, lines


def test_whatever_is_new_is_on_the_list(ours):
    after = Surface(ours.version, ours.routes | {("POST", "/api/3.0/mlflow/new")}, copy.deepcopy(ours.schema),
                    copy.deepcopy(ours.more))
    after.more["validators"] |= {"POST /api/3.0/mlflow/new": "validate_new", "GET /api/2.0/mlflow/runs/get": "validate_other"}
    after.more["functions"]["server.auth"]["validate_can_delete_run"] = "changed"
    after.more["functions"]["utils.rest_utils"]["http_request"] = "changed"
    after.more["functions"]["server.new"] = {}
    after.more["kinds"].append("spaceship")
    after.more["environment"].append("MLFLOW_NEW")
    after.more["pages"].append("ajax-api/3.0/mlflow/new")
    after.schema["messages"]["SetTag"]["new_field"] = "string"
    next(one for one in after.schema["routes"] if one["path"] == "/get-artifact")["keys"].append("new_key")
    text = "\n".join(difference(ours, after))
    for expected in (
        "new: `POST /api/3.0/mlflow/new`; MLflow asks `validate_new`",
        "new field `SetTag.new_field` (string)",
        "`GET /get-artifact`: new key in its handler `new_key`",
        "`GET /api/2.0/mlflow/runs/get`: `validate_other`, was `",
        "`validate_can_delete_run` changed; it decides about `POST /api/2.0/mlflow/runs/delete`",
        "new: `spaceship`",
        "new module `mlflow.server.new`",
        "`mlflow.utils.rest_utils`, changed: http_request",
        "new: `/ajax-api/3.0/mlflow/new`",
        "new: `MLFLOW_NEW`",
    ):
        assert expected in text, f"{expected} is not in\n{text}"


def test_what_mlflow_3_18_took_is_on_its_list():
    text = checklist("3.18.0", "3.17.2").text()
    lines = lines_of(text)
    named = "{name}", "@{organization}/{name}"
    routes = ["GET " + SKILLS, "POST " + SKILLS, f"POST {SKILLS}/bulk-register"] + [
        f"{method} {SKILLS}/{name}{rest}" for name in named for method, rest in (
            ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/tags"), ("DELETE", "/tags/{key:path}"),
            ("POST", "/versions"), ("GET", "/versions"), ("GET", "/versions/{version}"), ("PATCH", "/versions/{version}"),
            ("DELETE", "/versions/{version}"), ("POST", "/versions/{version}/tags"),
            ("DELETE", "/versions/{version}/tags/{key:path}"), ("POST", "/aliases"), ("GET", "/aliases/{alias}"),
            ("DELETE", "/aliases/{alias}"),
        )
    ]
    expected = {f"new: `{route}`; MLflow asks `_get_skill_registry_validator.<locals>.validator`" for route in routes}
    expected.add("new: `POST /ajax-api/3.0/mlflow/issues/schedule/state`; "
                 "MLflow's authorisation refuses it to all but administrators")
    assert {line for line in lines if line.startswith("new: `") and "MLflow" in line and "; " in line} == expected
    # Authors, ids in bodies, new ways to answer, levels, names, rows of a batch, scorers, kinds, and the client's retry rules.
    for one in (
        "new field `issues.UpdateIssue.last_updated_by` (string)",
        "new field `issues.CreateIssue.issue_id` (string)",
        "new object `SkillRegistryBulkRegisterSkillRequest`: digest, name, ref, source, source_type, status, subpath",
        "`POST /ajax-api/2.0/mlflow/upload-artifact`: new key in its handler `run_id`",
        "`POST /ajax-api/3.0/mlflow/issues/invoke`: new key in its handler `instructions`",
        "`GET /model-versions/get-artifact`: new key in its handler `presigned`",
        "`validate_can_batch_get_traces` changed; it decides about `GET /api/3.0/mlflow/traces/batchGet`, "
        "`POST /api/3.0/mlflow/traces/batchGetInfos`",
        "`validate_can_create_registered_model` changed; it decides about `POST /api/2.0/mlflow/registered-models/create`",
        "`validate_can_invoke_genai_evaluate` changed; it decides about `POST /ajax-api/3.0/mlflow/genai/evaluate/invoke`",
        "`validate_can_read_online_scoring_configs` changed; it decides about `GET /api/3.0/mlflow/scorers/online-configs`",
        "`validate_can_update_online_scoring_config` changed; it decides about `PUT /api/3.0/mlflow/scorers/online-config`",
        "`_get_mcp_server_validator` changed; it decides about `GET /api/3.0/mlflow/mcp-servers`, "
        "`POST /api/3.0/mlflow/mcp-servers`, `GET /api/3.0/mlflow/mcp-servers/endpoints` and 20 more",
        "`POST /api/2.0/mlflow/registered-models/rename`: `validate_can_rename_registered_model`, "
        "was `_validate_can_update_registered_model_or_prompt`",
        "new: `skill`",
        "new: `/ajax-api/3.0/mlflow/traces/batchGet`",
        "new: `MLFLOW_SERVER_SCHEDULED_ISSUE_DETECTION_MAX_WORKERS`",
    ):
        assert one in lines, f"{one} is not in\n{text}"
    for module, words, names in (
        # Artifact paths of skills, canonical IDs in grants, jobs that the server starts by itself.
        ("server.handlers", "new", ["_reject_skill_artifact_mutation", "_disable_if_artifacts_presigned_only"]),
        ("server.auth", "changed", ["_artifact_proxy_child_types"]),
        ("server.auth.permissions", "new", ["_canonical_experiment_id"]),
        ("server.jobs.utils", "changed", ["register_periodic_tasks"]),
        ("utils.rest_utils", "new", ["_UNPROCESSED_REQUEST_RESPONSE_CODES", "_RETRY_SAFE_POST_RESPONSES"]),
    ):
        line = next(line for line in lines if line.startswith(f"`mlflow.{module}`, {words}: "))
        assert set(names) <= set(line.split(": ", 1)[1].split(", ")), line


def test_the_script_says_how_it_is_called():
    done = subprocess.run([ROOT / "scripts/new-mlflow"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "VERSION" in done.stderr
