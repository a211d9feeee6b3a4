-- The conditions are described at status.conditions of the CRD.
local function condition(status, name)
  for _, c in ipairs(status.conditions or {}) do
    if c.type == name then
      return c
    end
  end
  return { status = "Unknown", reason = "Unknown", message = "" }
end

if obj.metadata.deletionTimestamp ~= nil then
  return { status = "Progressing", message = "being deleted" }
end
local status = obj.status
if status == nil or (status.observedGeneration or -1) < (obj.metadata.generation or 0) then
  return { status = "Progressing", message = "waiting for shardherd to look at it" }
end
local stalled, complete = condition(status, "Stalled"), condition(status, "Complete")
if stalled.status == "True" then
  return { status = "Degraded", message = stalled.reason .. ": " .. stalled.message }
end
if complete.status == "False" then
  return { status = "Degraded", message = complete.reason .. ": " .. complete.message }
end
if complete.status == "True" then
  return { status = "Healthy", message = complete.message }
end
return { status = "Progressing", message = status.message or "running" }
