-- The requests of a wrk run: from the file that REQUESTS names, one per line, its fields separated by tabs: method, path, body, headers
-- ("Name: value", one per field). Each thread begins at another line.
local requests, at = {}, 0

function init(arguments)
  for line in io.lines(os.getenv('REQUESTS')) do
    local fields = {}
    for field in string.gmatch(line .. '\t', '([^\t]*)\t') do
      fields[#fields + 1] = field
    end
    local headers = {}
    for i = 4, #fields do
      local name, value = string.match(fields[i], '^([^:]+): (.*)$')
      headers[name] = value
    end
    requests[#requests + 1] = wrk.format(fields[1], fields[2], headers, fields[3] ~= '' and fields[3] or nil)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end
