-- The conditions are described at status.conditions of the CRD.
local function condition(status, name)
  for _, c in ipairs(status.conditions or {}) do
    if c.type == name then
      return c
    end
  end
  return { status = "Unknown", reason = "Unknown", message = "" }
end

local function is(c, value)
  return c.status == value
end

if obj.metadata.deletionTimestamp ~= nil then
  return { status = "Progressing", message = "being deleted" }
end
local status = obj.status
if status == nil or (status.observedGeneration or -1) < (obj.metadata.generation or 0) then
  return { status = "Progressing", message = "waiting for shardherd to look at it" }
end
local ready, available = condition(status, "Ready"), condition(status, "Available")
local reconciling, stalled = condition(status, "Reconciling"), condition(status, "Stalled")
if is(stalled, "True") then
  return { status = "Degraded", message = stalled.reason .. ": " .. stalled.message }
end
if obj.spec.suspended and not is(reconciling, "True") then
  return { status = "Suspended", message = "scaled to zero by spec.suspended" }
end
if is(reconciling, "True") then
  return { status = "Progressing", message = reconciling.reason .. ": " .. reconciling.message }
end
if is(available, "False") then
  return { status = "Degraded", message = available.reason .. ": " .. available.message }
end
if is(ready, "True") then
  return { status = "Healthy", message = ready.message }
end
return { status = "Progressing", message = ready.reason .. ": " .. ready.message }
