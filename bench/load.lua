-- wrk's script: `wrk … -s load.lua URL -- PATH FILE` posts the lines of FILE, each a JSON body, in turn, and prints one line
-- of JSON with what came of it.
function init(args) -- wrk has set the Host header by now
  requests, at = {}, 0
  local headers = { ["content-type"] = "application/json" }
  for body in io.lines(args[2]) do
    requests[#requests + 1] = wrk.format("POST", args[1], headers, body)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, _)
  local errors = summary.errors
  print(string.format(
    '{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "refused": %d, "broken": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
