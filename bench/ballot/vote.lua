-- Votes with the cookies in $WRK_COOKIES, one after the other, and counts what was accepted.
local cookies, bodies, requests = {}, {}, {}
local threads = {}

function setup(thread)
  table.insert(threads, thread)
  thread:set("number", #threads)
end

function init(args)
  for line in io.lines(os.getenv("WRK_COOKIES")) do cookies[#cookies + 1] = line end
  for body in os.getenv("WRK_BODIES"):gmatch("[^|]+") do bodies[#bodies + 1] = body end
  for i, cookie in ipairs(cookies) do
    local headers = { ["Content-Type"] = os.getenv("WRK_KIND"), ["Cookie"] = cookie }
    requests[i] = wrk.format("POST", os.getenv("WRK_PATH"), headers, bodies[i % #bodies + 1])
  end
  at = number * 1000
  wanted = tonumber(os.getenv("WRK_STATUS"))
  accepted, refused = 0, 0
end

function request()
  at = at + 1
  return requests[at % #requests + 1]
end

function response(status)
  if status == wanted then accepted = accepted + 1 else refused = refused + 1 end
end

function done(summary, latency)
  local taken, not_taken = 0, 0
  for _, thread in ipairs(threads) do
    taken = taken + thread:get("accepted")
    not_taken = not_taken + thread:get("refused")
  end
  local errors = summary.errors
  not_taken = not_taken + errors.connect + errors.read + errors.write + errors.timeout
  print(string.format('{"accepted": %d, "refused": %d, "p50_ms": %.3f, "p99_ms": %.3f}', taken, not_taken,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
