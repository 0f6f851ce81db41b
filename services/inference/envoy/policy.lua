-- Decides about one call: is the method offered, may the token's projects use the model, is the model served?
-- Runs after the token check and after the filter that reads the model name out of the first message.

local SERVICE = "/inference.GRPCInferenceService/"
local OF_A_MODEL = {
  ModelInfer = "model_name", ModelStreamInfer = "model_name",
  ModelReady = "name", ModelMetadata = "name", ModelConfig = "name", ModelStatistics = "name",
}
local OF_THE_SERVER = { ServerLive = true, ServerReady = true, ServerMetadata = true }
local INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, UNIMPLEMENTED = "3", "5", "7", "12"

local function refuse(handle, code, message)
  handle:respond({
    [":status"] = "200", ["content-type"] = "application/grpc", ["grpc-status"] = code, ["grpc-message"] = message,
  })
end

local function printable(text)
  return (text:sub(1, 128):gsub("[^%w%._%-]", "?"))
end

local function send_to(handle, route)
  handle:headers():replace("x-lepton-route", route)
  handle:clearRouteCache()
end

local function permitted(claims, project)
  for _, allowed in ipairs(claims["projects"] or {}) do
    if allowed == "*" or allowed == project then return true end
  end
  return false
end

function envoy_on_request(handle)
  local path = handle:headers():get(":path")
  if path:sub(1, #SERVICE) ~= SERVICE then
    return refuse(handle, UNIMPLEMENTED, "the gateway serves inference.GRPCInferenceService only")
  end
  local method = path:sub(#SERVICE + 1)
  if OF_THE_SERVER[method] then return send_to(handle, "*") end
  local field = OF_A_MODEL[method]
  if field == nil then
    return refuse(handle, PERMISSION_DENIED, printable(method) .. " is not offered: models are managed by deployments")
  end

  local metadata = handle:streamInfo():dynamicMetadata()
  local names = (metadata:get("envoy.filters.http.grpc_field_extraction") or {})[field] or {}
  local model = names[1] or ""
  if model == "" then return refuse(handle, INVALID_ARGUMENT, "the request names no model: set " .. field) end
  local claims = (metadata:get("envoy.filters.http.jwt_authn") or {})["claims"] or {}
  local project = model:match("^([^.]+)%.") or ""
  if not permitted(claims, project) then
    return refuse(handle, PERMISSION_DENIED, "the token does not permit model " .. printable(model))
  end

  send_to(handle, method == "ModelStreamInfer" and model .. "/stream" or model)
  if handle:metadata():get("model") ~= model then
    return refuse(handle, NOT_FOUND, "model " .. printable(model) .. " is not deployed")
  end
end
