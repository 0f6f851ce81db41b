-- Decides about one call: does its token still count, is the method offered, may the caller use the model, is it served?
-- Runs after the token check and after the filter that reads the model name out of the first message. What the policy
-- says stands in `rules`, a table that is rendered before this text.

local SERVICE = "/inference.GRPCInferenceService/"
local OF_A_MODEL = {
  ModelInfer = "model_name", ModelStreamInfer = "model_name",
  ModelReady = "name", ModelMetadata = "name", ModelConfig = "name", ModelStatistics = "name",
}
local OF_THE_SERVER = { ServerLive = true, ServerReady = true, ServerMetadata = true }
local CODES = {
  INVALID_ARGUMENT = 3, NOT_FOUND = 5, PERMISSION_DENIED = 7, UNIMPLEMENTED = 12, INTERNAL = 13, UNAUTHENTICATED = 16,
}

-- One field of a protobuf message: a string of less than 16 KiB.
local function field(number, text)
  local length = #text
  local head = string.char(number * 8 + 2)
  if length < 128 then return head .. string.char(length) .. text end
  return head .. string.char(128 + length % 128, math.floor(length / 128)) .. text
end

local function detail(kind, value)
  return field(3, field(1, "type.googleapis.com/google.rpc." .. kind) .. field(2, value))
end

-- The same errors as those of every service of Lepton: a google.rpc.Status with an ErrorInfo.
local function refuse(handle, code, reason, message, facts)
  local info = field(1, reason) .. field(2, "gateway.lepton")
  for key, value in pairs(facts or {}) do info = info .. field(3, field(1, key) .. field(2, value)) end
  local status = string.char(8, CODES[code]) .. field(2, message) .. detail("ErrorInfo", info)
  handle:respond({
    [":status"] = "200", ["content-type"] = "application/grpc", ["grpc-status"] = tostring(CODES[code]),
    ["grpc-message"] = message, ["grpc-status-details-bin"] = handle:base64Escape(status),
  })
end

local function printable(text)
  return (text:sub(1, 128):gsub("[^%w%._%-/]", "?"))
end

local function holds(held, scope)
  return held:find(" " .. scope .. " ", 1, true) ~= nil
end

local function is_revoked(claims)
  if rules.tokens[claims["jti"] or ""] or rules.sessions[claims["sid"] or ""] then return true end
  local before = rules.principals[claims["sub"] or ""]
  return before ~= nil and (claims["iat"] or 0) < before
end

-- A token may be good for a part of its principal's permissions, or within one resource, only.
local function is_covered(claims)
  local patterns = claims["permissions"]
  if patterns == nil or #patterns == 0 then return true end
  for _, pattern in ipairs(patterns) do
    if pattern == "*" or pattern == "*.get" or pattern == "deployments.*" or pattern == "deployments.get" then return true end
  end
  return false
end

local function is_within(claims, project, model, above)
  local within = claims["within"] or ""
  return within == "" or within == "projects/" .. project or within == above
    or within == "projects/" .. project .. "/deployments/" .. model:sub(#project + 2)
end

-- Whether one of these scopes holds the model.
local function reaches(scopes, project, model, above)
  return scopes ~= nil and project ~= "" and not model:find(" ", 1, true)
    and (holds(scopes, project) or holds(scopes, "*") or holds(scopes, model) or holds(scopes, above))
end

-- The answer for a model that is not served, and for one that the caller has nothing to do with.
local function refuse_unserved(handle, model)
  return refuse(handle, "NOT_FOUND", "MODEL_NOT_SERVED",
    "Request for unknown model: " .. printable(model) .. " is not deployed; see `lepton deployments list`.", { model = printable(model) })
end

local function send_to(handle, route)
  handle:headers():replace("x-lepton-route", route)
  handle:clearRouteCache()
end

local function decide(handle)
  local headers = handle:headers()
  local path = headers:get(":path")
  if path:sub(1, #SERVICE) ~= SERVICE then
    return refuse(handle, "UNIMPLEMENTED", "UNIMPLEMENTED", "the gateway serves inference.GRPCInferenceService only")
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  local claims = (metadata:get("envoy.filters.http.jwt_authn") or {})["claims"] or {}
  if is_revoked(claims) then
    return refuse(handle, "UNAUTHENTICATED", "TOKEN_REVOKED", "The access token was revoked; sign in again.")
  end

  local method = path:sub(#SERVICE + 1)
  local named = headers:get("lepton-model")
  local field_name = OF_A_MODEL[method]
  local model
  if field_name ~= nil then
    local names = (metadata:get("envoy.filters.http.grpc_field_extraction") or {})[field_name] or {}
    model = names[1] or ""
    if model == "" then
      return refuse(handle, "INVALID_ARGUMENT", "MODEL_UNNAMED",
        "The request names no model; set " .. field_name .. " to <project>.<deployment>.", { field = field_name })
    end
    if named ~= nil and named ~= model then
      return refuse(handle, "INVALID_ARGUMENT", "MODEL_NAMES_DIFFER",
        "The header lepton-model names " .. printable(named) .. ", the message " .. printable(model) ..
        "; name one model, or leave the header out.", { header = printable(named), message = printable(model) })
    end
  elseif OF_THE_SERVER[method] then
    if named == nil then return send_to(handle, "*") end
    model = named
  else
    return refuse(handle, "PERMISSION_DENIED", "METHOD_NOT_OFFERED",
      "The gateway does not offer " .. printable(method) .. ": models are managed by deployments, and no memory is " ..
      "shared with callers; send tensors in the message.", { method = printable(method) })
  end

  send_to(handle, method == "ModelStreamInfer" and model .. "/stream" or model)
  local route = handle:metadata()
  local project = model:match("^([^.]+)%.") or ""
  local above = route:get("above") or "?"
  local caller = claims["sub"] or ""
  local is_near = is_within(claims, project, model, above)
  local may_predict = is_near and reaches(rules.grants[caller], project, model, above)
  if not may_predict and not (is_near and reaches(rules.known[caller], project, model, above)) then
    return refuse_unserved(handle, model)
  end
  if not may_predict or not is_covered(claims) then
    return refuse(handle, "PERMISSION_DENIED", "PERMISSION_DENIED",
      "The caller lacks deployments.get on model " .. printable(model) .. "; ask an administrator for a role that has it.",
      { permission = "deployments.get", resource = printable(model) })
  end
  if route:get("model") ~= model then return refuse_unserved(handle, model) end
  local revision = headers:get("lepton-revision")
  if revision ~= nil and route:get("revision") ~= revision then
    return refuse(handle, "NOT_FOUND", "REVISION_NOT_SERVED",
      "Revision " .. printable(revision) .. " of " .. model .. " is not served; leave the header lepton-revision out.",
      { model = model, revision = printable(revision) })
  end
end

-- Envoy lets a call go on when a script fails: this one refuses it instead.
function envoy_on_request(handle)
  local is_decided, problem = pcall(decide, handle)
  if not is_decided then
    handle:logErr("policy: " .. tostring(problem))
    return refuse(handle, "INTERNAL", "INTERNAL", "The gateway could not decide about the call; report it to the operator.")
  end
end
