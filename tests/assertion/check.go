// Checks assertions of nginx, by the standard library.
package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"time"
)

const (
	assertionType = "authgear-assertion+jwt"
	leeway        = 5
)

var errRefused = errors.New("no valid assertion")

// Key is a member of the JWK set.
type Key struct{ Kid, Alg, X, Y string }

// Claims has the claims that are checked. The others have the names of the request headers.
type Claims struct {
	Iss, Aud, Sub string
	Iat, Exp      int64
	Roles         string `json:"x-authgear-user-roles"`
}

func decode(part string, value any) error {
	bytes, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(bytes, value)
}

func (key Key) isSigned(text string, signature []byte) bool {
	x, _ := base64.RawURLEncoding.DecodeString(key.X)
	y, _ := base64.RawURLEncoding.DecodeString(key.Y)
	if len(signature) != 64 || len(x) != 32 {
		return false
	}
	number := func(bytes []byte) *big.Int { return new(big.Int).SetBytes(bytes) }
	switch key.Alg {
	case "ES256":
		public := ecdsa.PublicKey{Curve: elliptic.P256(), X: number(x), Y: number(y)}
		digest := sha256.Sum256([]byte(text))
		return ecdsa.Verify(&public, digest[:], number(signature[:32]), number(signature[32:]))
	case "EdDSA":
		return ed25519.Verify(x, []byte(text), signature)
	}
	return false
}

// Check returns the claims of a valid assertion.
func Check(assertion string, keys []Key, issuer, audience string) (*Claims, error) {
	var header struct{ Alg, Typ, Kid string }
	var claims Claims
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 || decode(parts[0], &header) != nil || decode(parts[1], &claims) != nil {
		return nil, errRefused
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || header.Typ != assertionType {
		return nil, errRefused
	}
	now := time.Now().Unix()
	for _, key := range keys {
		// The algorithm is that of the key, whatever the header says.
		if key.Kid == header.Kid && key.Alg == header.Alg &&
			key.isSigned(parts[0]+"."+parts[1], signature) &&
			claims.Iss == issuer && claims.Aud == audience && claims.Sub != "" &&
			claims.Iat <= now+leeway && claims.Exp > now-leeway {
			return &claims, nil
		}
	}
	return nil, errRefused
}

// Prints a line for each assertion of the input: KEYS ISSUER AUDIENCE.
func main() {
	var set struct{ Keys []Key }
	text, err := os.ReadFile(os.Args[1])
	if err == nil {
		err = json.Unmarshal(text, &set)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		claims, err := Check(lines.Text(), set.Keys, os.Args[2], os.Args[3])
		if err != nil {
			fmt.Println("refused")
			continue
		}
		fmt.Println("accepted", claims.Sub)
	}
}
