-- Posts the requests of a pool file in turns, a fresh UUID in place of each zero UUID.
--
-- wrk ... -s post.lua URL POOL [repeated]: the file holds whole requests, each after its length as four bytes, lowest
-- first. With `repeated`, the first request goes out with one UUID, over and over.

local ZERO_UUID = "00000000%-0000%-0000%-0000%-000000000000"
local concat, random = table.concat, math.random
local pool, hex = {}, {}
local turn, same = 0, nil

-- Return the text around each zero UUID.
local function pieces(request)
  local found, from = {}, 1
  while true do
    local first, last = request:find(ZERO_UUID, from)
    if not first then
      found[#found + 1] = request:sub(from)
      return found
    end
    found[#found + 1] = request:sub(from, first - 1)
    from = last + 1
  end
end

local function uuid()
  local h = hex
  return h[random(65536)] .. h[random(65536)] .. "-" .. h[random(65536)] .. "-4" .. h[random(65536)]:sub(2) .. "-8"
    .. h[random(65536)]:sub(2) .. "-" .. h[random(65536)] .. h[random(65536)] .. h[random(65536)]
end

function init(args)
  for value = 1, 65536 do
    hex[value] = ("%04x"):format(value - 1)
  end
  math.randomseed(os.time())
  local file = assert(io.open(args[1], "rb"))
  while true do
    local head = file:read(4)
    if not head then break end
    local a, b, c, d = head:byte(1, 4)
    pool[#pool + 1] = pieces(file:read(a + 256 * (b + 256 * (c + 256 * d))))
  end
  file:close()
  if args[2] == "repeated" then
    same = concat(pool[1], uuid())
  end
end

function request()
  if same then return same end
  turn = turn % #pool + 1
  return concat(pool[turn], uuid())
end
