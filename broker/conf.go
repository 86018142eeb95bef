package broker

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/nats-io/jwt/v2"
)

// ServerConfig is what differs between NATS servers outside the node.
type ServerConfig struct {
	Listen    string // host:port
	Store     string // folder of JetStream's files
	Trust     string // folder of the accounts' tokens, as the server sees it; it must be writable for it
	Cert, Key string // files, as the server sees them; empty: no TLS, on loopback only
}

// serverConf is a nats-server configuration. The server's own accounts stand in it, so that it starts
// with an empty folder of accounts, too.
var serverConf = template.Must(template.New("").Parse(`# nats-server configuration of a Bluejay node, made by: bluejay nats config
listen: {{printf "%q" .Listen}}
operator: {{.Operator}}
system_account: {{.System}}
resolver { type: full, dir: {{printf "%q" .Trust}}, allow_delete: false, interval: "1h" }
resolver_preload {
{{- range $account, $token := .Accounts}}
  {{$account}}: {{$token}}
{{- end}}
}
max_payload: 64KB
max_control_line: 8KB
jetstream { store_dir: {{printf "%q" .Store}}, sync_interval: always }
{{- if .Cert}}
tls { cert_file: {{printf "%q" .Cert}}, key_file: {{printf "%q" .Key}}, min_version: "1.3" }
{{- end}}
`))

// ServerConf returns the configuration of a nats-server that trusts what is in a folder that
// [Authority.WriteTrust] wrote. Every write that it acknowledges is on disk. [C-4]
func ServerConf(trust string, c ServerConfig) (string, error) {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return "", fmt.Errorf("broker: listen must be host:port")
	}
	if ip := net.ParseIP(host); c.Cert == "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", fmt.Errorf("broker: other machines may connect only with TLS: give a certificate")
	}
	token, err := os.ReadFile(filepath.Join(trust, fileOperator))
	if err != nil {
		return "", err
	}
	operator, err := jwt.DecodeOperatorClaims(string(token))
	if err != nil {
		return "", fmt.Errorf("broker: %s is no operator's token", fileOperator)
	}
	accounts, err := accountTokens(trust)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = serverConf.Execute(&b, map[string]any{
		"Listen": c.Listen, "Store": c.Store, "Trust": c.Trust, "Cert": c.Cert, "Key": c.Key,
		"Operator": string(token), "System": operator.SystemAccount, "Accounts": accounts,
	})
	return b.String(), err
}

// accountTokens reads the accounts, by public key.
func accountTokens(trust string) (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(trust, dirAccounts, "*.jwt"))
	if err != nil {
		return nil, err
	}
	tokens := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		tokens[strings.TrimSuffix(filepath.Base(f), ".jwt")] = string(b)
	}
	return tokens, nil
}
