<?php
// Checks assertions of nginx, by the extensions openssl and sodium.

const TYPE = 'authgear-assertion+jwt';
const LEEWAY = 5;

function bytes(mixed $text): string
{
    return is_string($text) ? (string) base64_decode(strtr($text, '-_', '+/'), true) : '';
}

/** An unsigned number of 32 bytes in DER. */
function number(string $bytes): string
{
    $bytes = ltrim($bytes, "\0");
    $bytes = $bytes === '' || ord($bytes[0]) > 127 ? "\0" . $bytes : $bytes;
    return "\x02" . chr(strlen($bytes)) . $bytes;
}

function is_signed(string $text, string $signature, array $key): bool
{
    if (strlen($signature) !== 64) {
        return false;
    }
    if ($key['alg'] === 'EdDSA') {
        return sodium_crypto_sign_verify_detached($signature, $text, bytes($key['x']));
    }
    // A public key of the curve P-256 in DER (RFC 5480), and the signature in DER.
    $head = hex2bin('3059301306072a8648ce3d020106082a8648ce3d030107034200' . '04');
    $der = base64_encode($head . bytes($key['x']) . bytes($key['y']));
    $pem = "-----BEGIN PUBLIC KEY-----\n" . chunk_split($der, 64, "\n") . "-----END PUBLIC KEY-----\n";
    $numbers = number(substr($signature, 0, 32)) . number(substr($signature, 32));
    $der = "\x30" . chr(strlen($numbers)) . $numbers;
    return $key['alg'] === 'ES256' && openssl_verify($text, $der, $pem, OPENSSL_ALGO_SHA256) === 1;
}

/** Returns the claims, or null. */
function check(string $assertion, array $keys, string $issuer, string $audience): ?array
{
    $parts = explode('.', $assertion);
    if (count($parts) !== 3) {
        return null;
    }
    $header = json_decode(bytes($parts[0]), true);
    $claims = json_decode(bytes($parts[1]), true);
    if (!is_array($header) || !is_array($claims) || ($header['typ'] ?? null) !== TYPE) {
        return null;
    }
    foreach ($keys as $key) {
        // The algorithm is that of the key, whatever the header says.
        if ($key['kid'] === ($header['kid'] ?? null) && $key['alg'] === ($header['alg'] ?? null)) {
            $holds = is_signed("$parts[0].$parts[1]", bytes($parts[2]), $key)
                && ($claims['iss'] ?? null) === $issuer
                && ($claims['aud'] ?? null) === $audience
                && is_string($claims['sub'] ?? null)
                && is_int($claims['iat'] ?? null) && $claims['iat'] <= time() + LEEWAY
                && is_int($claims['exp'] ?? null) && $claims['exp'] > time() - LEEWAY;
            return $holds ? $claims : null;
        }
    }
    return null;
}

// Prints a line for each assertion of the input: KEYS ISSUER AUDIENCE.
[, $file, $issuer, $audience] = $argv;
$keys = json_decode(file_get_contents($file), true)['keys'];
while (($line = fgets(STDIN)) !== false) {
    $claims = check(rtrim($line), $keys, $issuer, $audience);
    echo $claims === null ? "refused\n" : "accepted {$claims['sub']}\n";
}
