"""Hand-written parts of the request schema: facts that MLflow's descriptors and models do not contain.

Each entry names the MLflow function and release that it was read from. request_schema.py fails on an entry that no
release needs any more, and on a handler that reads the request in a way that is not listed here.
"""

from dataclasses import dataclass, field

# MLflow releases that the schema is made from, oldest first.
RELEASES = ["2.10.2", "2.22.5", "3.6.0", "3.9.0", "3.13.0", "3.17.2", "3.18.0"]


@dataclass(frozen=True)
class Raw:
    """An operation whose handler reads the request beside its message, or has no message.

    `query` and `body` are the fields that it reads there, in addition to those of its message or FastAPI parameters.
    `unsent` are keys that its code contains and that are of no use to it, or in a place that the proxy never sends.
    """

    source: str
    query: dict = field(default_factory=dict)
    body: dict = field(default_factory=dict)
    unsent: frozenset = frozenset()


# Members of an OpenAI, Anthropic or Gemini request go to the model provider, which has the final say about them.
PASSED_ON = {"*": "any"}
WITH_MODEL = {"model": "string", **PASSED_ON}

# Values of a parameter as the playground sends them.
SCALAR = "string|int64|double|bool"

OBJECTS = {
    # handlers.create_promptlab_run_handler and store/tracking/utils._create_promptlab_run_impl, 3.17.2
    "PromptlabParam": {"key": "key", "value": SCALAR},
    "PromptlabTag": {"key": "key", "value": "string"},
    # handlers.post_ui_telemetry_handler, 3.17.2: JavaScript writes a large number with or without a fraction
    "UiTelemetryRecord": {
        "event_name": "string", "timestamp_ns": "int64|double", "params": "any", "installation_id": "string",
        "session_id": "string",
    },
}

# handlers._disable_if_artifacts_presigned_only, 3.18.0, reads `presigned` only for handlers with allow_presigned=True.
PRESIGNED = frozenset({"presigned"})

RAW = {
    # ---- MLflow's Flask handlers without a message
    "CreatePromptlabRun": Raw("handlers.create_promptlab_run_handler, 2.10.2 to 3.18.0", body={
        "experiment_id": "string", "run_name": "string", "tags": "[PromptlabTag]", "prompt_template": "string",
        "prompt_parameters": "[PromptlabParam]", "model_route": "string", "model_parameters": "[PromptlabParam]",
        "model_input": "string", "model_output": "string", "model_output_parameters": "[PromptlabParam]",
        "mlflow_version": "string", "user_id": "string", "start_time": "int64",
    }),
    "GatewayProxy": Raw(
        "handlers.gateway_proxy_handler, 2.10.2 to 3.18.0: `args` is the query for GET and the body for POST",
        query={"gateway_path": "string", "json_data": "string"},
        body={"gateway_path": "string", "json_data": "any"},
    ),
    "GenerateDemo": Raw("handlers._generate_demo, 3.13.0", body={"features": "[string]"}),
    "GetArtifact": Raw("handlers.get_artifact_handler, 2.10.2 to 3.18.0", unsent=PRESIGNED, query={
        "path": "string", "run_id": "string", "run_uuid": "string",
    }),
    "GetLoggedModelArtifact": Raw("handlers.get_logged_model_artifact_handler, 3.6.0; presigned since 3.18.0", query={
        "artifact_file_path": "string", "presigned": "string",
    }),
    "GetMetricHistoryBulk": Raw("handlers.get_metric_history_bulk_handler, 2.10.2 to 3.18.0", query={
        "run_id": "[string]", "metric_key": "string", "max_results": "int64",
    }),
    "GetModelVersionArtifact": Raw(
        "handlers.get_model_version_artifact_handler, 2.10.2; presigned since 3.18.0",
        query={"name": "string", "version": "string", "path": "string", "presigned": "string"},
    ),
    "GetOnlineScoringConfigs": Raw("handlers._get_online_scoring_configs, 3.9.0", query={"scorer_ids": "[string]"}),
    "GetProviderConfig": Raw("handlers._get_provider_config, 3.9.0", query={"provider": "string"}),
    "GetTraceArtifact": Raw("handlers.get_trace_artifact_handler, 2.22.5; path since 3.13.0", query={
        "request_id": "string", "path": "string",
    }),
    "GetTraceArtifactV3": Raw("handlers.get_trace_artifact_handler, 3.9.0; path since 3.13.0", query={
        "request_id": "string", "path": "string",
    }),
    # An entry of scorer_versions may be null.
    "InvokeEvaluation": Raw("handlers._invoke_genai_evaluate_handler, 3.16.0; scorer_versions since 3.17.2", body={
        "experiment_id": "string", "trace_ids": "[string]", "serialized_scorers": "[json]",
        "scorer_versions": "[int64|null]",
    }),
    "InvokeIssueDetection": Raw("handlers._invoke_issue_detection_handler, 3.13.0; instructions since 3.18.0", body={
        "experiment_id": "string", "trace_ids": "[string]", "categories": "[string]", "instructions": "string",
        "provider": "string", "model": "string", "secret_id": "string", "endpoint_name": "string",
    }),
    "InvokeScorer": Raw("handlers._invoke_scorer_handler, 3.9.0; scorer_name and scorer_version since 3.17.2", body={
        "experiment_id": "string", "serialized_scorer": "json", "scorer_name": "string", "scorer_version": "int64",
        "trace_ids": "[string]", "log_assessments": "bool",
    }),
    "ListSupportedModels": Raw("handlers._list_supported_models, 3.9.0", query={"provider": "string"}),
    "SearchDatasets": Raw("handlers.search_datasets_handler, 2.10.2; the message SearchDatasets in later releases"),
    "SyncIssueDetectionSchedule": Raw("handlers._sync_issue_detection_schedule_state_handler, 3.18.0", body={
        "experiment_id": "string",
    }),
    "UiTelemetry": Raw("handlers.post_ui_telemetry_handler, 3.9.0; the GET route reads nothing", body={
        "records": "[UiTelemetryRecord]",
    }),
    "UploadArtifact": Raw(
        "handlers.upload_artifact_handler, 2.10.2; run_id since 3.18.0; the body is the file", unsent=PRESIGNED,
        query={"path": "string", "run_id": "string", "run_uuid": "string"},
    ),
    "UpsertOnlineScoringConfig": Raw("handlers._upsert_online_scoring_config, 3.9.0", body={
        "experiment_id": "string", "name": "string", "sample_rate": "double", "filter_string": "string",
    }),
    # ---- handlers that read more than their message
    "BatchGetTraceInfos": Raw("handlers._raw_request_has_field, 3.17.2: whether experiment_ids is present"),
    "BatchGetTraces": Raw("handlers._raw_request_has_field, 3.17.2: whether experiment_ids is present"),
    "CreateWorkspace": Raw("handlers._get_workspace_request_message, 3.13.0: which fields are present"),
    "DeleteWorkspace": Raw("handlers._delete_workspace_handler, 3.13.0", query={"mode": "string"}),
    "GetLoggedModel": Raw("handlers._get_logged_model, 3.9.0", query={"allow_deleted": "string"}),
    "GetMetricHistoryBulkInterval": Raw(
        "handlers.get_metric_history_bulk_interval_impl, 2.22.5: fields of its message, as text of the query",
    ),
    "ListScorers": Raw("handlers._raw_request_has_field, 3.17.2: whether experiment_ids is present"),
    "LogBatch": Raw("handlers._log_batch, 2.10.2: the length of the body"),
    "UpdateIssue": Raw("handlers._update_issue, 3.18.0: whether categories is present"),
    "UpdateWorkspace": Raw("handlers._get_workspace_request_message, 3.13.0: which fields are present"),
    # ---- bodies that are no JSON, or have rules of their own in the proxy
    "ExportTraces": Raw("otel_api.export_traces, 3.6.0: OTLP"),
    "GraphQl": Raw("handlers._graphql, 2.22.5: GraphQL"),
    "GraphQlByGet": Raw("handlers._graphql, 2.22.5: the body of a GET request, which the proxy never sends",
                        unsent=frozenset({"operationName", "query", "variables"})),
    "ProxyDownloadArtifact": Raw("handlers._download_artifact, 3.18.0: only its decorator", unsent=PRESIGNED),
    "ProxyUploadArtifact": Raw(
        "handlers._upload_artifact, 2.10.2, and artifact_router.upload_artifact, 3.16.0: a stream", unsent=PRESIGNED,
    ),
    "CreateSkillVersion": Raw("skill_registry_api._parse_registration_request, 3.18.0: JSON or multipart, a stream"),
    # ---- invocations of the AI gateway: gateway_api._get_request_body, 3.9.0; only RawProxy reads the query
    "AnthropicMessages": Raw("gateway_api.anthropic_passthrough_messages, 3.9.0", body=WITH_MODEL),
    "ChatCompletions": Raw("gateway_api.chat_completions, 3.9.0", body=WITH_MODEL),
    "GeminiGenerate": Raw("gateway_api.gemini_passthrough_generate_content, 3.9.0", body=PASSED_ON),
    "GeminiStreamGenerate": Raw("gateway_api.gemini_passthrough_stream_generate_content, 3.9.0", body=PASSED_ON),
    "InvokeEndpoint": Raw("gateway_api.invocations, 3.9.0", body=PASSED_ON),
    "OpenAiChat": Raw("gateway_api.openai_passthrough_chat, 3.9.0", body=WITH_MODEL),
    "OpenAiEmbeddings": Raw("gateway_api.openai_passthrough_embeddings, 3.9.0", body=WITH_MODEL),
    "OpenAiResponses": Raw("gateway_api.openai_passthrough_responses, 3.9.0", body=WITH_MODEL),
    "OpenAiResponsesCompact": Raw("gateway_api.openai_passthrough_responses_compact, 3.17.2", body=WITH_MODEL),
    "RawProxy": Raw("gateway_api.raw_proxy, 3.17.2: the query goes to the provider unchanged", query={"*": "string"}),
    "TypesafeSystemOne": Raw("gateway_api.typesafe_passthrough_system_one, 3.17.2", body=WITH_MODEL),
    # ---- routes of libraries
    "UpstreamMetrics": Raw("prometheus_flask_exporter.PrometheusMetrics, 0.23: only with --expose-prometheus", query={
        "name[]": "[string]",
    }),
}

# Operations that none of these releases lists as a route, and why.
UNLISTED = {
    "Favicon": "requested by browsers",
    "GetAssessmentV2": "a route of releases between 2.22.5 and 3.6.0",
    "UpstreamMetrics": "mlflow server --expose-prometheus",
}

# The message to use where a handler parses another one than its endpoint declares. It has all fields of both.
MESSAGE = {
    "DeleteTraceTagV3": ("DeleteTraceTagV3", "handlers._delete_trace_tag, 3.6.0, parses DeleteTraceTag"),
    "DeleteTracesV3": ("DeleteTraces", "handlers._delete_traces, 3.6.0 to 3.18.0, parses DeleteTraces"),
}

# Strings whose text MLflow parses as JSON.
JSON_TEXT = {
    "CreateDataset.tags": "handlers._create_dataset_handler, 3.6.0",
    "LogModel.model_json": "handlers._log_model, 2.10.2",
    "PromptOptimizationJobConfig.optimizer_config_json": "handlers._create_prompt_optimization_job, 3.13.0",
    "RegisterScorer.serialized_scorer": "store/tracking/sqlalchemy_store.register_scorer, 3.6.0",
    "SetDatasetTags.tags": "handlers._set_dataset_tags_handler, 3.6.0",
    "UpsertDatasetRecords.records": "handlers._upsert_dataset_records_handler, 3.6.0",
    "assessments.Expectation.SerializedValue.value": "entities/assessment.ExpectationValue.from_proto, 3.6.0",
}

# Fields whose type differs between releases: the type to use, and why.
CONFLICTS = {}

# Folders of routes that have no row in routes.toml, by release, without /api/3.0 or /ajax-api/3.0. Requests to them are
# refused. An entry whose routes all have rows fails.
UNROUTED = {}
