-- The locks on users. One script, so that several users are taken together or not at all.
--
-- {lern}:user:<id>       STRING "<lease> <holder>", expires
--   Who holds this user. <lease> is "<token> <nonce>": the token of one execution of one step and a nonce of the one
--   hold; <holder> says in words which run and step that is. Absent: nobody holds the user.
--
-- {lern}:locks:server    STRING "<run_id of the Redis process>", never expires
--   The process in whose memory the locks are complete. If it is absent or names another process, Redis was emptied,
--   restarted or failed over, and locks may be missing whose holders are still at work.
--
-- {lern}:locks:grace     STRING "1", expires after one TTL
--   While it stands nobody is granted a lock: so long may a holder, whose lock was forgotten, trust its lease.
--
-- KEYS: {lern}:locks:server, {lern}:locks:grace, then the users' keys.
-- ARGV: "acquire" <lease> <holder> <ttl ms>  ->  1 | {"grace", ms left} | {place in users, value that stands there}
--       "renew"   <lease> <ttl ms>           ->  1 | {place in users, value that stands there, "" for none}
--       "release" <lease>                    ->  number of users freed
--       "vouch"                              ->  1; only for one who knows that this Redis has forgotten no lock

local server, grace = KEYS[1], KEYS[2]
local verb, lease = ARGV[1], ARGV[2]

local function process()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or '-'
end

local function ours(value)
  return value and string.sub(value, 1, #lease + 1) == lease .. ' '
end

local function users()
  local keys = {}
  for place = 3, #KEYS do
    keys[place - 2] = KEYS[place]
  end
  return keys, redis.call('MGET', unpack(keys))
end

if verb == 'vouch' then
  redis.call('SET', server, process())
  redis.call('DEL', grace)
  return 1
end

if verb == 'acquire' then
  local running = process()
  if redis.call('GET', server) ~= running then
    redis.call('SET', server, running)
    redis.call('SET', grace, '1', 'PX', ARGV[4])
  end
  local left = redis.call('PTTL', grace)
  if left ~= -2 then
    return {'grace', left}
  end
  local keys, values = users()
  for place, value in ipairs(values) do
    if value and not ours(value) then
      return {place, value}
    end
  end
  for _, key in ipairs(keys) do
    redis.call('SET', key, lease .. ' ' .. ARGV[3], 'PX', ARGV[4])
  end
  return 1
end

if verb == 'renew' then
  -- A lock that is gone is never set again: somebody may have held the user in between.
  local keys, values = users()
  for place, value in ipairs(values) do
    if not ours(value) then
      return {place, value or ''}
    end
  end
  for _, key in ipairs(keys) do
    redis.call('PEXPIRE', key, ARGV[3])
  end
  return 1
end

if verb == 'release' then
  local freed = 0
  local keys, values = users()
  for place, value in ipairs(values) do
    if ours(value) then
      freed = freed + redis.call('DEL', keys[place])
    end
  end
  return freed
end

return redis.error_reply('unknown verb ' .. tostring(verb))
