// Reads requests, one JSON object a line, and prints what Go's net/http reads in each.
package main

import (
	"bufio"
	"encoding/json"
	"log"
	"net/http"
	"net/textproto"
	"os"
	"strings"
)

type request struct {
	Authorization []byte
	Cookies       [][]byte
}

type cookie struct {
	Name, Value string
}

type answer struct {
	Bearer  []byte
	Cookies []cookie
	// Value of the first cookie "session", as an application asks for it.
	Session *string
}

func read(in request) answer {
	r := http.Request{Header: http.Header{}}
	// The reader of a header removes white space around values.
	r.Header.Set("Authorization", textproto.TrimString(string(in.Authorization)))
	for _, field := range in.Cookies {
		r.Header.Add("Cookie", string(field))
	}
	out := answer{Cookies: []cookie{}}
	// As pkg/lib/oauth/resolver.go of Authgear.
	parts := strings.SplitN(r.Header.Get("Authorization"), " ", 2)
	if len(parts) == 2 && strings.ToLower(parts[0]) == "bearer" {
		out.Bearer = []byte(parts[1])
	}
	for _, c := range r.Cookies() {
		out.Cookies = append(out.Cookies, cookie{c.Name, c.Value})
	}
	if c, err := r.Cookie("session"); err == nil {
		out.Session = &c.Value
	}
	return out
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var in request
		if err := json.Unmarshal(lines.Bytes(), &in); err != nil {
			log.Fatal(err)
		}
		if err := out.Encode(read(in)); err != nil {
			log.Fatal(err)
		}
	}
}
