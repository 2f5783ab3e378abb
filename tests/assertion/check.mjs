// Checks assertions of nginx, by node:crypto.

import { createPublicKey, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';

const TYPE = 'authgear-assertion+jwt';
const LEEWAY = 5;

/** Returns the claims, or null. */
export function check(assertion, keys, issuer, audience, now = Date.now() / 1000) {
  const parts = assertion.split('.');
  if (parts.length !== 3) return null;
  let header, claims;
  try {
    [header, claims] = parts.slice(0, 2).map((part) => JSON.parse(Buffer.from(part, 'base64url')));
  } catch {
    return null;
  }
  const jwk = keys.find((key) => key.kid === header?.kid);
  // The algorithm is that of the key, whatever the header says.
  if (header?.typ !== TYPE || !jwk || header.alg !== jwk.alg) return null;
  const digest = { ES256: 'sha256', EdDSA: null }[jwk.alg];
  if (digest === undefined) return null;
  const key = { key: createPublicKey({ key: jwk, format: 'jwk' }), dsaEncoding: 'ieee-p1363' };
  const signed = Buffer.from(`${parts[0]}.${parts[1]}`);
  if (!verify(digest, signed, key, Buffer.from(parts[2], 'base64url'))) return null;
  const holds =
    claims.iss === issuer &&
    claims.aud === audience &&
    typeof claims.sub === 'string' &&
    claims.iat <= now + LEEWAY &&
    claims.exp > now - LEEWAY;
  return holds ? claims : null;
}

// Prints a line for each assertion of the input: KEYS ISSUER AUDIENCE.
const [file, issuer, audience] = process.argv.slice(2);
const { keys } = JSON.parse(readFileSync(file));
for (const line of readFileSync(0, 'utf8').split('\n').slice(0, -1)) {
  const claims = check(line, keys, issuer, audience);
  console.log(claims ? `accepted ${claims.sub}` : 'refused');
}
