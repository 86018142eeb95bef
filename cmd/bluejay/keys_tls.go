package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"bluejay/bridge"
	"bluejay/broker"
	"bluejay/clients/handset"
	"bluejay/sms"
)

// beside says what runs beside a node's own processes and needs keys, too. The zero value: nothing.
type beside struct {
	nats, mqtt []string // names of the NATS server, and of the broker as handsets know it; empty: no certificate
	kannel     string   // URL where Kannel reaches the worker; "": no Kannel
}

func (b *beside) flags(f *pflag.FlagSet) {
	f.StringSliceVar(&b.nats, "nats-host", nil, "names of a NATS server outside: makes keys/nats, with a certificate and a configuration, and nats-ca.pem")
	f.StringSliceVar(&b.mqtt, "mqtt-host", nil, "names of the broker as handsets know it: makes a certificate in keys/broker, and mqtt-ca.pem for handsets")
	f.StringVar(&b.kannel, "kannel", "", "where Kannel reaches the worker, like http://worker:8090: makes the passwords between them")
}

// Files of the parts beside a node.
const (
	fileTLSCert  = "tls.crt"
	fileTLSKey   = "tls.key"
	fileNATSConf = "server.conf"
	fileNATSCA   = "nats-ca.pem" // in DIR, and in the folder of each role that connects
	fileMQTTCA   = "mqtt-ca.pem" // in DIR; handsets need it
	fileLogin    = "kannel.login"
	fileCallback = "callbacks.key"
)

// certLife is how long a certificate is good, and the authority that signed it. One life for both: the
// authority's key is thrown away, so that nothing could sign a second certificate under it.
const certLife = 10 * 365 * 24 * time.Hour

// check refuses what the steps could not use, before there are keys.
func (b beside) check() error {
	_, err1 := serverCert(b.nats)
	_, err2 := serverCert(b.mqtt)
	for flag, err := range map[string]error{"nats-host": err1, "mqtt-host": err2} {
		if err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
	}
	if u, err := url.Parse(b.kannel); b.kannel != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil) {
		return errors.New("kannel: want a URL like http://worker:8090, where Kannel reaches the worker")
	}
	return nil
}

// steps are what initKeys does for b, before the pins.
func (b beside) steps() []func(string, *handset.Pins) error {
	var steps []func(string, *handset.Pins) error
	if len(b.nats) > 0 {
		steps = append(steps, b.initServer)
	}
	if len(b.mqtt) > 0 {
		steps = append(steps, b.initListener)
	}
	if b.kannel != "" {
		steps = append(steps, b.initKannel)
	}
	return steps
}

// initServer makes what a NATS server outside needs, and tells each role whom to believe.
func (b beside) initServer(dir string, _ *handset.Pins) error {
	server := keyDir(filepath.Join(dir, "keys", "nats"))
	ca, err := makeCert(server, b.nats)
	if err != nil {
		return err
	}
	for _, r := range append(bridge.Roles(), roleOperator) {
		if err := rolesDir(dir, r).writeAll(fileNATSCA, ca); err != nil {
			return err
		}
	}
	conf, err := broker.ServerConf(trustDir(dir), broker.ServerConfig{
		Listen: "0.0.0.0:4222", Store: "/data", Trust: "/etc/nats/accounts",
		Cert: "/run/keys/" + fileTLSCert, Key: "/run/keys/" + fileTLSKey,
	})
	if err != nil {
		return err
	}
	conf += "http: \"127.0.0.1:8222\" # for the health check only\n"
	return errors.Join(server.writeAll(fileNATSConf, []byte(conf)), os.WriteFile(filepath.Join(dir, fileNATSCA), ca, 0o644))
}

// initListener makes the broker's certificate.
func (b beside) initListener(dir string, _ *handset.Pins) error {
	ca, err := makeCert(rolesDir(dir, bridge.RoleBroker), b.mqtt)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, fileMQTTCA), ca, 0o644)
}

// routeKannel is the route's name in deploy/routes.toml: the secret address for incoming texts depends on it.
const routeKannel = "kannel"

// initKannel makes what the worker and Kannel know of each other. Kannel's side are lines that its
// configuration includes.
func (b beside) initKannel(dir string, _ *handset.Pins) error {
	password, admin, secret := b64.EncodeToString(random(24)), b64.EncodeToString(random(24)), b64.EncodeToString(random(32))
	at := strings.TrimSuffix(b.kannel, "/")
	g, err := sms.NewKannel(sms.KannelConfig{
		GatewayConfig: sms.GatewayConfig{Name: routeKannel, URL: at, CallbackURL: at + callbackPath(routeKannel), Secret: []byte(secret)},
		Username:      "bluejay", Password: password,
	})
	if err != nil {
		return err
	}
	worker, kannel := rolesDir(dir, bridge.RoleWorker), keyDir(filepath.Join(dir, "keys", "kannel"))
	incoming := fmt.Sprintf("get-url = \"%s?from=%%p&to=%%P&text=%%a&charset=UTF-8\"\n", g.IncomingURL())
	return errors.Join(
		worker.writeAll(fileLogin, []byte("bluejay:"+password+"\n")),
		worker.writeAll(fileCallback, []byte(secret+"\n")),
		kannel.writeAll("admin.conf", []byte("admin-password = "+admin+"\n")),
		kannel.writeAll("sendsms.conf", []byte("password = "+password+"\n")),
		kannel.writeAll("incoming.conf", []byte(incoming)))
}

// hostName is a DNS name in lower case; an underscore is none, but container networks know such.
var hostName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*$`)

// serverCert says what the certificate of a server with these names is like.
func serverCert(names []string) (*x509.Certificate, error) {
	leaf := template("Bluejay server")
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range names {
		ip := net.ParseIP(name)
		switch {
		case ip != nil:
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		case len(name) <= 253 && hostName.MatchString(name):
			leaf.DNSNames = append(leaf.DNSNames, name)
		default:
			return nil, fmt.Errorf("%q is neither a host name in lower case nor an IP address; without a port", name)
		}
	}
	return leaf, nil
}

// makeCert makes a server's certificate and private key in d, signed by an authority that exists for
// this one signature, and returns the authority's certificate (PEM). P-256, not Ed25519: handsets that
// use their system's TLS may not know the latter.
func makeCert(d keyDir, names []string) (ca []byte, err error) {
	leaf, err := serverCert(names)
	if err != nil {
		return nil, err
	}
	root := template("Bluejay authority of one certificate")
	root.IsCA, root.BasicConstraintsValid, root.MaxPathLenZero, root.KeyUsage = true, true, true, x509.KeyUsageCertSign
	authority, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	own, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	rootDER, err1 := x509.CreateCertificate(rand.Reader, root, root, authority.Public(), authority)
	leafDER, err2 := x509.CreateCertificate(rand.Reader, leaf, root, own.Public(), authority)
	key, err3 := x509.MarshalPKCS8PrivateKey(own)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	err = errors.Join(d.writeAll(fileTLSCert, asPEM("CERTIFICATE", leafDER)), d.writeAll(fileTLSKey, asPEM("PRIVATE KEY", key)))
	return asPEM("CERTIFICATE", rootDER), err
}

func asPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// template is what both certificates have in common. It begins an hour ago, for clocks that are late.
func template(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(random(16)), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certLife),
	}
}
