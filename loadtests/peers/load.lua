-- Sends the requests of a folder in turn and prints one line of JSON at the end.
-- wrk -s load.lua URL -- FOLDER COUNT PATH: FOLDER/headers holds "Name: value" lines, FOLDER/0, FOLDER/1 ... the bodies.
local requests, count, turn = {}, 0, 0

local function read(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*a")
  file:close()
  return content
end

function init(args)
  count = tonumber(args[2])
  local headers = {}
  for name, value in read(args[1] .. "/headers"):gmatch("([^:\n]+): ([^\n]+)") do
    headers[name] = value
  end
  for number = 1, count do
    requests[number] = wrk.format("POST", args[3], headers, read(args[1] .. "/" .. (number - 1)))
  end
end

function request()
  turn = turn % count + 1
  return requests[turn]
end

function done(summary, latency, _)
  local failed = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p95_ms": %.4f, "p99_ms": %.4f, "max_ms": %.4f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
