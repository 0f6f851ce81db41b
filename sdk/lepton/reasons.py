"""What each error reason means and what to do about it: the one table behind messages and docs/errors.md."""

from collections.abc import Mapping
from typing import Final

# A text may name the error's metadata in braces. It says what happened and then what the caller can do.
TEXTS: Final[Mapping[str, str]] = {
    # Requests.
    "INVALID_FIELD": "The request has invalid fields; correct the fields named in the details and send it again.",
    "INVALID_NAME": "The resource name is malformed; use the form {pattern}.",
    "MALFORMED_MESSAGE": "The message could not be decoded as {message}; use the protos that the server uses.",
    "REQUEST_TOO_LARGE": "The request has {size} bytes, this method takes {limit} at most; send less at a time.",
    "REQUEST_TOO_DEEP": "{message} holds messages more than {limit} deep; make it flatter.",
    "DEADLINE_REQUIRED": "Calls between services must carry a deadline; set a timeout on the call.",
    "DEADLINE_TOO_SHORT": "The deadline had already passed when the call arrived; set a longer timeout.",
    "DEADLINE_EXCEEDED": "The call did not finish before its deadline; set a longer timeout or try again.",
    "CANCELLED": "The call was cancelled before it finished; send it again when it is still wanted.",
    "UNIMPLEMENTED": "The server does not know this method; check that the server is as new as the client.",
    # Who calls, and what they may do.
    "TOKEN_MISSING": "The call carries no access token; sign in and send it as 'authorization: Bearer <token>'.",
    "TOKEN_INVALID": "The access token is not valid; sign in again.",
    "TOKEN_EXPIRED": "The access token has expired; refresh it or sign in again.",
    "TOKEN_REVOKED": "The access token was revoked; sign in again.",
    "PERMISSION_DENIED": "The caller lacks {permission} on {resource}; ask an administrator for a role that has it.",
    "CONDITION_NOT_MET": (
        "{permission} on {resource} is granted on a condition that is not met: {unmet}. "
        "Change the request, or ask for a wider grant."
    ),
    "PRINCIPAL_LIMIT_EXCEEDED": (
        "{principal} may have {limit} {unit} that have not ended; it has {used} and asks for {wanted} more. "
        "Wait, or have the limit raised."
    ),
    "POLICY_BEHIND": "The server decides by policy revision {revision}, not yet by {wanted}; try again shortly.",
    "LIMITED_TOKEN": "A token that is good for a part of its account's permissions makes no credentials; sign in anew.",
    "OWN_ACCOUNT": "{user} is who calls; have another administrator do it, so that nobody locks themselves out.",
    "ROLE_IN_USE": "{bindings} bindings give {role}, for example {binding}; delete them first.",
    "ROTATION_UNDER_WAY": "The newest signing key is not known everywhere yet; try again in {wait_s} seconds.",
    "AUTHORITY_ROTATING": "The authority is being replaced until {until}; rotate again after that.",
    "CERTIFICATE_REVOKED": "The certificate of {peer} was revoked; an operator admits it anew with a join token.",
    "PEER_DENIED": "The service {peer} may not call this method.",
    "PEER_REQUIRED": "This method is for the services of the mesh only.",
    "METHOD_WITHOUT_RULE": "The method has no access rule and is refused; add the rule option to its proto.",
    "POLICY_NOT_READY": "The server has not yet received the access policy; try again shortly.",
    # Pools, nodes and workloads.
    "POOL_NOT_FOUND": "There is no {pool}; an operator creates it first.",
    "NODE_WITHOUT_POOL": (
        "The node {node} names no pool and no pool's rule accepts it ({why}); set `pool` in its agent's settings, "
        "or give a pool a rule with `lepton pools update`."
    ),
    "POOL_NOT_EMPTY": "{pool} still has nodes; stop their agents first.",
    "HELLO_REQUIRED": "A node session begins with a hello that names its node, within 10 seconds; send it first.",
    "HELLO_REPEATED": "The hello is the first message of a node session only; open a new session instead.",
    "NODE_IDENTITY_MISMATCH": "The certificate of {peer} is not that of {node}; agents speak for their own node.",
    "SESSION_SUPERSEDED": "Another session of {node} has taken over; stop what this one runs.",
    "SESSION_EXPIRED": "{node} was not heard of in time and counts as lost; stop what it runs and open a new session.",
    "WORKLOAD_ENDED": "{workload} is {state} and cannot be changed any more; create another one.",
    "WORKLOAD_NOT_ENDED": "{workload} is {state}; cancel it and wait until it has ended.",
    "WORKLOAD_NOT_SERVING": "{workload} is not a serving workload: its groups cannot be changed; create another one.",
    "PLAN_TOO_LARGE": "The plan has {variables} variables; {limit} can be solved in time: join what is alike.",
    "WORKLOAD_ADMITTED": "{workload} is {state}: its queue can be changed only while it waits.",
    "ADMISSION_CHECK_NOT_FOUND": "{workload} has no admission check {check}; it names its checks when it is created.",
    "QUEUE_NOT_FOUND": "There is no {queue}; an operator creates it first.",
    "QUEUE_ALREADY_EXISTS": "{queue} exists already; change it, or choose another id.",
    "QUEUE_IN_USE": "{queue} is still used by {user} ({count} in all); move or end what uses it first.",
    "FLOATING_RESOURCE_NOT_FOUND": "There is no {floating_resource}; an operator creates it first.",
    "FLOATING_RESOURCE_ALREADY_EXISTS": "{floating_resource} exists already; change it, or choose another id.",
    "FLOATING_RESOURCE_IN_USE": "{floating_resource} is still asked for by {user} ({count} in all); end those first.",
    "ETAG_MISMATCH": "{name} has changed since it was read; read it again and repeat the change.",
    "WRITE_CONFLICT": "Others keep changing the same resource; try again.",
    "IDEMPOTENCY_KEY_REUSED": "The request_id {request_id} came before with another request; use a new one.",
    "PAGE_TOKEN_INVALID": "The page_token is not the next_page_token of the same request; list again without one.",
    "PAGE_TOKEN_EXPIRED": "The list was read too long ago to be continued; list again without a page_token.",
    # Signing in and joining the mesh.
    "SIGN_IN_FAILED": "Signing in failed; check the name and the password, the API key, or the ID token.",
    "SIGN_IN_THROTTLED": "Signing in failed too often from here, or for this account; wait as long as the details say.",
    "SIGN_IN_BUSY": "Too many passwords are being checked at once; wait as long as the details say and try again.",
    "PROVIDER_UNAVAILABLE": "The identity provider {issuer} does not answer; try again later.",
    "PROVIDER_NOT_FOUND": "Auth knows no identity provider {provider}; see `lepton login --oidc`, or ask an operator.",
    "PROVIDER_AMBIGUOUS": "There are several identity providers; choose one with --provider: {providers}.",
    "PROVIDER_REFUSED": "The identity provider refused ({error}); sign in there again, or ask who runs it.",
    "REFRESH_TOKEN_REFUSED": "The refresh token is not, or no longer, good; sign in again.",
    # Secrets.
    "SECRET_NOT_FOUND": "There is no {secret}; `lepton secrets create` makes it.",
    "SECRET_ALREADY_EXISTS": "{secret} exists already; `lepton secrets add-version` gives it a new value.",
    "SECRET_DISABLED": "{secret} is disabled; `lepton secrets enable` gives it to jobs again.",
    "SECRET_VERSION_UNUSABLE": "Version {version} of {secret} is {state}; name another, or give it a new version.",
    "SECRET_VERSION_NOT_FOUND": "{secret} has no version {version}; `lepton secrets describe` lists those it has.",
    "SECRET_VERSIONS_FULL": "{secret} has {versions} versions, as many as may be; destroy those that nothing uses.",
    "SLICE_NOT_ASSIGNED": "{node} does not run generation {generation} of {workload} (any more); it gets no secrets.",
    "SECRETS_UNAVAILABLE": "Secrets cannot be given to jobs here: {problem}.",
    "JOIN_TOKEN_REFUSED": "The join token is unknown, expired or used; have another one made.",
    "CSR_INVALID": "The certificate signing request cannot be granted; the details say why.",
    # Load and availability.
    "AUDIT_EXPORT_INVALID": "Line {line} is not that of an exported audit log: {problem}; export it again.",
    "AUDIT_UNAVAILABLE": (
        "The call cannot be recorded in the audit log ({problem}), so it was not confirmed; repeat it with the same "
        "request_id once the operator has made room."
    ),
    "STREAMS_EXHAUSTED": "{holder} has {limit} streams open, as many as it may; end some of them, then try again.",
    "RATE_LIMITED": "The caller sends too many calls; wait as long as the details say and try again.",
    "MESSAGE_TOO_LARGE": "The message is larger than the server accepts; send less at a time.",
    # The gateway, beside RATE_LIMITED and MESSAGE_TOO_LARGE.
    "MODEL_UNNAMED": "The request names no model; set {field} to <project>.<deployment>.",
    "MODEL_NAMES_DIFFER": "The header lepton-model names {header}, the message {message}; name one model.",
    "MODEL_NOT_SERVED": "Request for unknown model: {model} is not deployed; see `lepton deployments list`.",
    "MESSAGE_COMPRESSED": "The gateway reads the model's name in the message: send it uncompressed.",
    "NAME_TOO_LONG": "An answer repeats a name of the request, and is too long for that; shorten the request's names.",
    "REVISION_NOT_SERVED": "Revision {revision} of {model} is not served; leave the header lepton-revision out.",
    "METHOD_NOT_OFFERED": "The gateway does not offer {method}; send tensors in the message, and use deployments.",
    "TOO_MANY_IN_FLIGHT": "The model has as many calls in flight as it may; try again shortly, or raise the limit.",
    "NO_REPLICA": "No replica of the model answers now; try again shortly.",
    "HELD_CALLS_FULL": (
        "{deployment} is being woken and {held} calls are held for it already, as many as may be; try again shortly, "
        "or raise autoscaling.held_requests or held_bytes."
    ),
    "GATEWAY_UNKNOWN": "The call has not come through the gateway that this service configures; call the gateway.",
    "NOT_AWAKE": (
        "{deployment} was called, and no replica of it was ready after {waited_s} s ({why}); see "
        "`lepton deployments show`, then try again."
    ),
    "REPLICA_LOST": "The replica was lost while it had the call; try again.",
    "DRAINING": "The server is shutting down; try again, another replica will answer.",
    "UNREACHABLE": "The server could not be reached; check the address and that it is running, then try again.",
    "STORE_UNAVAILABLE": "The state store does not answer; try again shortly.",
    "OUTCOME_UNKNOWN": "The state store did not confirm the change; repeat the call with the same request_id.",
    "TRY_AGAIN": "The server cannot answer now; try again shortly.",
    # The client's own side.
    "NOT_SIGNED_IN": "Nobody is signed in; run `lepton login`, or call sign_in first.",
    "PROJECT_MISSING": "No project is chosen; pass one, or set a default with `lepton projects use PROJECT`.",
    "EXTRA_MISSING": "The package {package} is needed for this; run `pip install 'lepton-sdk[{extra}]'`.",
    "WAIT_TIMED_OUT": "{name} is not as wished yet ({state}); it goes on, so wait longer.",
    "RUN_FOLDER_TAKEN": "{folder} holds the curves of another job, {job}; name another folder, or empty that one.",
    "NOTHING_MEASURED": "{job} has measured nothing that can be shown ({measured}); wait, or name another metric.",
    "STACK_NOT_STARTED": "The local stack in {home} could not be started ({why}); look into its logs folder.",
    "STACK_NOT_INSTALLED": (
        "There is no profile at {profile}, and no control plane is installed here that could be started; "
        "set LEPTON_PROFILE to reach another."
    ),
    "TRAINING_FAILED": "The job {job} ended as {state}: {why}; `lepton jobs get` shows what else is known.",
    "INPUT_INVALID": "{file} cannot be read as input: {problem}; give rows, or arrays by the inputs' names.",
    "JOB_WITHOUT_PACKAGE": "The job {job} has produced no model; wait until it has succeeded.",
    "JOB_WITHOUT_WORKLOAD": "The job {job} has not been handed to the scheduler yet; try again shortly.",
    "TRACE_NOT_FOUND": "Nothing is known of the trace of {trace}; it may not be sampled, or not have arrived yet.",
    "TRACES_NOT_CONFIGURED": "The profile names no trace collector; set `traces` in its [endpoints], an https:// URL.",
    "COLLECTOR_UNAVAILABLE": "The trace collector {collector} does not answer ({problem}); check that it runs.",
    "PROFILE_MISSING": "There is no profile at {profile}; start a stack with `lepton up`, or set LEPTON_PROFILE.",
    "PROFILE_INVALID": "The profile at {profile} cannot be read: {problem}; correct it, or write it with `lepton up`.",
    # Artifacts, data and models.
    "ARTIFACT_NOT_FOUND": "There is no {artifact} in the store; check the digest and the project, or store it again.",
    "ARTIFACT_CORRUPT": "The bytes of {artifact} no longer match its digest; store it again or restore it from a copy.",
    "ARTIFACT_SEALED": "{artifact} is encrypted; end the store's URL with '#key_file=' and the file of its keys.",
    "ARTIFACT_KEY_MISSING": "The key {key} is missing or wrong; put its line back into the store's key file.",
    "PROJECT_NOT_ON_NODE": "{node} runs nothing of {project}, so it gets no keys of it.",
    "ARTIFACT_KEYS_UNAVAILABLE": "The keys of artifacts cannot be given to nodes: {problem}.",
    "TOO_MANY_KEY_VERSIONS": "{project} has {most} versions of a key already; wait until former ones are destroyed.",
    "ARTIFACT_KEYS_UNKNOWN": "The keys of the artifacts of {project} are not here; try again once auth answers.",
    "ARTIFACT_TAMPERED": "An encrypted artifact is not as it was stored ({problem}); restore it from a copy.",
    "PROJECT_SHREDDED": "The keys of {project} are destroyed, and with them all that they sealed; use another project.",
    "PROJECT_KEY_MISSING": "Version {version} of the key of {project} is gone; restore the store of auth from a copy.",
    "SEALED_DATA_TAMPERED": "What is stored of {resource} is not what was sealed there; restore it from a copy.",
    "KEY_PROVIDER_UNAVAILABLE": "The key provider does not answer ({problem}); check its address, then try again.",
    "KEYRING_KEY_NOT_FOUND": "There is no key {key} in {keyring}; `keyring-list` names those that there are.",
    "KEYRING_KEY_IN_USE": "The key {key} stays in the keyring: {problem}.",
    "KEY_PROVIDER_REFUSED": "The key provider refuses to use {key} ({problem}); check that it is enabled and allowed.",
    "ARTIFACTS_NOT_CONFIGURED": "This process knows no artifact store; set LEPTON_ARTIFACTS and LEPTON_PROJECT.",
    "FILE_NOT_FOUND": "There is no file {file}; check the path.",
    "DATASET_INVALID": "The dataset cannot be used: {problem}.",
    "PIPELINE_INVALID": "The pipeline cannot be prepared: {problem}; correct that step and deploy again.",
    "BATCH_INPUT_INVALID": "The dataset of the batch prediction cannot be read: {problem}; give another file.",
    "BATCH_PREDICTION_ALREADY_EXISTS": "{batch_prediction} exists already; choose another id or delete it first.",
    "BATCH_PREDICTION_DELETING": "{batch_prediction} is being deleted; wait until it is gone.",
    "BATCH_PREDICTION_NOT_FOUND": "There is no {batch_prediction}; list the project's batch predictions.",
    "BATCH_PREDICTION_WITHOUT_RESULT": "{batch_prediction} has no result yet; wait until it has ended.",
    "MODEL_PACKAGE_INVALID": "The artifact is no model package: {problem}; name the digest of a package's manifest.",
    "MODEL_FILE_INVALID": "{file} is no {kind} that can be used: {problem}.",
    "MODEL_FILE_PICKLED": (
        "{file} is {what}, which runs code when it is read; write safetensors (safetensors.torch.save_file), or export "
        "it (torch.onnx.export, torch.export.save)."
    ),
    "MODEL_NOT_PROVED": "The model in {file} could not be run with its golden requests: {problem}.",
    "KERAS_BACKEND_WRONG": "Keras runs on {backend}; set KERAS_BACKEND=torch before keras is imported.",
    "TRANSFER_IMPOSSIBLE": "No weights can be taken over from {package}: {problem}.",
    # Training and the ranks of a gang.
    "CHECKPOINT_INVALID": "The artifact is no checkpoint: {problem}; name the digest of a checkpoint's manifest.",
    "CHECKPOINT_NOT_WRITTEN": "The checkpoint could not be written: {why}; those before it stand; training goes on.",
    "CHECKPOINT_DIFFERS": "In the checkpoint {checkpoint} {path} {problem}; load it into a state of the same model.",
    "NO_CHECKPOINT_WHOLE": "None of the checkpoints can be read ({problems}); restore their files, or start a new job.",
    "RANKS_SILENT": "Nothing came from another rank ({key}) within {seconds} s; all ranks must take part.",
    "RESUME_NOT_AGREED": "A rank has not called resume() within {seconds} s; all must that joined the gang.",
    "GANG_NOT_JOINED": "This rank has not met the others; call init_process_group, or session().gang.join(), first.",
    "CHECKPOINT_OF_ANOTHER_RUN": "The checkpoint {checkpoint} is of other settings; resume with those or start anew.",
    "COMMIT_REFUSED": "The job did not accept {commit}: {why}; a newer run has taken over, so this one must end.",
    "COMMIT_NOT_ANSWERED": "The job did not answer {commit} in time; check that the trainer service runs, then resume.",
    "AGENT_GONE": "The agent of this rank is gone, so {commit} was not committed; resume from the last checkpoint.",
    "RANK_ENVIRONMENT_INVALID": "The variable {variable} is {value!r}, with which no rank can work; correct it.",
    "GANG_INCOMPLETE": "The ranks {ranks} did not come within {seconds} s; see why they did not start, then try again.",
    "PREFLIGHT_FAILED": (
        "The ranks {ranks} did not pass the collective check within {seconds} s ({problem}); check their nodes and the "
        "network between them, or leave those nodes out."
    ),
    "MODEL_NOT_DIVISIBLE": "The model cannot be divided ({axis}): {problem}.",
    "RANK_SERVES": "{rank} serves parameters and does not train; call serve() on it.",
    "SERVERS_SILENT": "The parameter server {server} did not answer within {seconds} s; look at that rank's output.",
    "SERVER_GONE": "The parameter server {server} is gone ({why}); the run goes on from the last checkpoint.",
    "SERVER_UNPROVEN": "What answers as parameter server {server} does not know the gang's secret; nothing was sent.",
    "WORKERS_GONE": "The workers {workers} left before they had finished and did not return; the run must begin anew.",
    "FRAME_INVALID": "A message between workers and parameter servers is refused: {problem}.",
    "RANK_ALREADY_RUNNING": "The rank {rank} runs already; stop it first or choose another id.",
    "RANK_NOT_STARTED": "The process could not be started: {why}; free what is missing and try again.",
    "LAUNCH_TOO_LARGE": "The arguments and variables of {rank} are too large; put them into a file of the bundle.",
    "BUNDLE_INVALID": "The archive cannot be used: {problem}; make it again with `lepton run` or `lepton.bundle`.",
    "BUNDLE_TOO_LARGE": (
        "The folder {folder} is too large for a bundle: {problem}; leave out what is not code in a .leptonignore file "
        "and give data with --data. The largest: {largest}."
    ),
    "BUNDLE_FILE_REFUSED": "The file {file} cannot be in a bundle: it {problem}; leave it out in a .leptonignore file.",
    "REQUIREMENTS_INVALID": "The list of requirements {problem}.",
    "REQUIREMENTS_FAILED": "The requirements could not be installed: {problem}.",
    "ISOLATION_UNAVAILABLE": "The agent's setting {setting} cannot be kept: {problem}; correct or remove it.",
    "LAUNCHER_LOST": "The node's launcher has died and its ranks with it; another is started, so try again.",
    # Watches, generations and leaders.
    "REVISION_COMPACTED": "The history since revision {revision} is gone; list the resources and watch from there.",
    "GENERATION_STALE": "A newer run of {job} has started; this one must end.",
    "GENERATION_UNKNOWN": "No run {generation} of {job} was opened; open it before anything of it is reported.",
    "RUN_NOT_READY": "The workload of {job} is not known to the trainer yet; try again shortly.",
    "NOT_THE_WORKLOAD": "{job} is not run by the workload {workload_uid}; only its own workload may open its runs.",
    "GUARD_FAILED": "This replica no longer leads; try again, the present leader will act.",
    # Jobs, models and deployments.
    "JOB_ENDED": "The job {job} is over; create a new one.",
    "JOB_NOT_ENDED": "The job {job} is still running; cancel it and wait until it has ended.",
    "MANIFEST_INVALID": "The manifest {manifest} is malformed, or a file that it lists is missing; write it again.",
    "DIGEST_MISMATCH": "The bytes received are not the bytes announced ({expected}); send them again.",
    "ARTIFACT_TOO_LARGE": "The artifact is larger than {limit_bytes} bytes; split it, or have the limit raised.",
    "PACKAGE_INVALID": "The model package cannot be registered; correct what the details name.",
    "GOLDEN_INVALID": "The golden requests of the model are malformed; package the model again.",
    "COMPLIANCE_VIOLATION": "{policy} does not allow it (rule {rule}): {problem}; {fix}.",
    "COMPLIANCE_NOT_READY": "Where pools are is not known here yet, and a compliance policy asks; try again shortly.",
    "COMPLIANCE_LIMIT": "There are {limit} {what} already, and no more fit into the policy; delete some first.",
    "DELETION_PROTECTED": (
        "The model {model} is protected from deletion; take that away with `lepton models update --no-protect`."
    ),
    "VERSION_IN_USE": "The version {version} is used by {user}; move or delete that first.",
    "VERSION_QUARANTINED": "The version {version} is quarantined ({why}); deploy another one, or have it released.",
    "QUARANTINE_NOT_FOUND": "{source} is not quarantined; see what is with `lepton models versions`.",
    "FILTER_INVALID": "The filter cannot be used: {problem}.",
    "UPLOAD_MOVED": "The upload of {artifact} stands at byte {committed_bytes}; ask where it is and go on from there.",
    "ARTIFACT_QUOTA_EXCEEDED": (
        "The artifacts of {project} would be {wanted_bytes} bytes, {limit_bytes} at the most are allowed; delete some, "
        "or have the quota raised."
    ),
    "TOO_MANY_TRANSFERS": "This server moves {limit} artifacts already; try again shortly.",
    "MODEL_IN_USE": "The model {model} is used by {user}; cancel that or wait until it has ended.",
    "MODEL_DEPLOYED": "The model {model} is served by {deployment}; delete the deployment first.",
    "ENGINE_UNAVAILABLE": "An engine by {engine} cannot be made here: {problem}; ONNX Runtime serves the model.",
    "ENGINE_BUILD_FAILED": "{engine} could not build or run the engine: {problem}.",
    "CALIBRATION_MISSING": "INT8 with fixed ranges needs samples to find them on; give a dataset.",
    "OPTIMIZATION_ALREADY_EXISTS": "{optimization} exists already; choose another id or delete it first.",
    "OPTIMIZATION_NOT_FOUND": "There is no {optimization}; list the model's optimisations.",
    "OPTIMIZATION_ENDED": "{optimization} has ended; start another one.",
    "OPTIMIZATION_WITHOUT_PROPOSAL": "{optimization} proposes nothing: {message}.",
    "EXPORT_FAILED": "The model could not be exported: {problem}; use a built-in architecture.",
    "EXPORT_MISMATCH": "The export answers unlike the checkpoint ({output}: {error}, limit {limit}); report the model.",
    "DEPLOYMENT_NOT_SERVING": "The deployment {deployment} does not serve; wait until it does, or read its message.",
    "ROLLOUT_NOT_IN_PROGRESS": "The deployment {deployment} has no rollout in progress ({state}); a change starts one.",
    "NO_EARLIER_REVISION": "The deployment {deployment} has served no earlier revision; name one by its number.",
    "INFERENCE_NOT_CONFIGURED": "The node {node} knows no inference service; add `inference` to [peers] of its agent.",
    "TRITON_NOT_CONFIGURED": "The node {node} has no Triton server; configure one, or deploy to another pool.",
    "NO_ENGINE_FOR_NODE": "No form of the model runs on this node ({problem}); build one, or allow ONNX Runtime.",
    "STATE_IN_USE": "Another agent uses {state_dir}; stop it, or give this one its own folder.",
    # The server's own fault.
    "INTERNAL": "The server failed; report the request id to the operator.",
    "UNKNOWN": "The server answered without saying what went wrong; report it to the operator.",
}


class _Facts(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return f"<{key}>"


def text(reason: str, metadata: Mapping[str, str]) -> str:
    """The message of a reason with the error's facts filled in; a reason without a text reads as its own words."""
    known = TEXTS.get(reason)
    if known is not None:
        return known.format_map(_Facts(metadata))
    if reason.endswith("_NOT_FOUND"):
        name = next(iter(metadata.values()), "such resource")
        return f"There is no {name}, or the caller may not know of it; check the name."
    if reason.endswith("_ALREADY_EXISTS"):
        return f"There already is {next(iter(metadata.values()), 'such a resource')}; choose another id."
    words = reason.replace("_", " ").lower().capitalize()
    facts = ", ".join(f"{key}={value}" for key, value in metadata.items())
    return f"{words}: {facts}." if facts else f"{words}."
