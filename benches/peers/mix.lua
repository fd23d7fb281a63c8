-- wrk: sends the requests of $MIX_REQUESTS (see mix.py) below the path $MIX_PREFIX, in order, each
-- thread from its own place and with the header $MIX_HEADER ("Name: value"), if there is one; or, with $MIX_UNIQUE set, whole GETs of textures nobody asked before.
-- Ends with one line of JSON.
local prefix = os.getenv("MIX_PREFIX") or ""
local unique = os.getenv("MIX_UNIQUE")
local header, value = (os.getenv("MIX_HEADER") or ""):match("^([^:]+): (.*)$")
local requests, at, threads = {}, 0, 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init()
  if unique then return end
  for line in io.lines(os.getenv("MIX_REQUESTS")) do
    local target, range = line:match("^([^\t]*)\t(.*)$")
    local headers = {}
    if header then headers[header] = value end
    if range ~= "" then headers["Range"] = range end
    requests[#requests + 1] = wrk.format("GET", prefix .. target, headers)
  end
  at = number * 617
end

function request()
  at = at + 1
  if unique then
    -- A valid random (version 4) UUID whose first part names the run.
    return wrk.format("GET", string.format("%s/?texture_id=%08x-%04x-4%03x-8000-%012x", prefix, unique, number, at % 4096, at))
  end
  return requests[at % #requests + 1]
end

function done(summary, latency)
  io.write(string.format(
    'JSON {"requests":%d,"seconds":%.3f,"bytes":%d,"p50_us":%d,"p99_us":%d,"errors":%d}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50), latency:percentile(99),
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout))
end
