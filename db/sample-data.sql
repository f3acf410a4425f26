-- 1,000 sample users for development. A login as one of them is impossible, because their password hash matches no password.
INSERT INTO users (id, email, email_key, display_name, password_hash, created_at, updated_at)
SELECT
    -- A UUIDv7: 48 bits of milliseconds, the version, then bits that are the same on every machine.
    (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
        || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
    format('user%s@example.com', n),
    format('user%s@example.com', n),
    (ARRAY['Ada', 'Alan', 'Barbara', 'Donald', 'Edsger', 'Frances', 'Grace', 'Leslie', 'Margaret', 'Niklaus'])[1 + n % 10]
        || ' ' || n,
    '',
    at,
    at
FROM (SELECT n, timestamptz '2026-01-01 00:00:00Z' + n * interval '1 hour' AS at FROM generate_series(1, 1000) AS n) AS users
ON CONFLICT DO NOTHING;
