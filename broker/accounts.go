package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"bluejay/bridge"
)

// Accounts of a node's NATS, in the way NATS calls "operator mode" (decentralised JWT authentication):
//
//	operator   signs accounts; its key is read by the operator's commands only
//	BLUEJAY    the roles' account; each role has a signing key whose scope is exactly what it may do
//	SYS        the server's own; has no users
//	others     one for each integrator, which see nothing of each other
//
// A client proves who it is with an Ed25519 key (nkey) that never leaves its credentials file: the
// server sees no secret. Public are a signed token for the operator and one for each account; that is
// all a server needs.

// Authority is the operator's secret. It never prints.
type Authority struct {
	operator, system, account nkeys.KeyPair
	roles                     map[bridge.Role]nkeys.KeyPair
}

// Format redacts under every verb.
func (Authority) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte("[NATS operator]")) }

// Public folders and files of a server's trust, below one folder.
const (
	fileOperator  = "operator.jwt"
	dirAccounts   = "accounts"
	accountsName  = "BLUEJAY"
	operatorName  = "bluejay"
	credsAccounts = 0o644
)

// natsRoles are all that may use the roles' account.
func natsRoles() []bridge.Role { return append(bridge.Roles(), bridge.RoleOperator) }

// NewAuthority makes the operator of a new node.
func NewAuthority() (a Authority, err error) {
	var errs []error
	pair := func(make func() (nkeys.KeyPair, error)) nkeys.KeyPair {
		k, err := make()
		errs = append(errs, err)
		return k
	}
	a = Authority{
		operator: pair(nkeys.CreateOperator), system: pair(nkeys.CreateAccount), account: pair(nkeys.CreateAccount),
		roles: map[bridge.Role]nkeys.KeyPair{},
	}
	for _, r := range natsRoles() {
		a.roles[r] = pair(nkeys.CreateAccount)
	}
	return a, errors.Join(errs...)
}

// seeds is an Authority as it is stored.
type seeds struct {
	Operator string                 `json:"operator"`
	System   string                 `json:"system"`
	Account  string                 `json:"account"`
	Roles    map[bridge.Role]string `json:"roles"`
}

// Marshal returns the secret as JSON.
func (a Authority) Marshal() ([]byte, error) {
	var errs []error
	seed := func(k nkeys.KeyPair) string {
		b, err := k.Seed()
		errs = append(errs, err)
		return string(b)
	}
	s := seeds{Operator: seed(a.operator), System: seed(a.system), Account: seed(a.account), Roles: map[bridge.Role]string{}}
	for r, k := range a.roles {
		s.Roles[r] = seed(k)
	}
	b, err := json.Marshal(s)
	return b, errors.Join(append(errs, err)...)
}

// errAuthority says that a stored secret is none.
var errAuthority = errors.New("broker: not the secret of a NATS operator")

// ParseAuthority reads what [Authority.Marshal] wrote.
func ParseAuthority(b []byte) (a Authority, err error) {
	var s seeds
	if err := json.Unmarshal(b, &s); err != nil {
		return a, errAuthority
	}
	bad := false
	pair := func(seed string, kind nkeys.PrefixByte) nkeys.KeyPair {
		k, err := nkeys.FromSeed([]byte(seed))
		if prefix, _, err2 := nkeys.DecodeSeed([]byte(seed)); err != nil || err2 != nil || prefix != kind {
			bad = true
		}
		return k
	}
	a = Authority{
		operator: pair(s.Operator, nkeys.PrefixByteOperator), system: pair(s.System, nkeys.PrefixByteAccount),
		account: pair(s.Account, nkeys.PrefixByteAccount), roles: map[bridge.Role]nkeys.KeyPair{},
	}
	for _, r := range natsRoles() {
		a.roles[r] = pair(s.Roles[r], nkeys.PrefixByteAccount)
	}
	if bad {
		return Authority{}, errAuthority
	}
	return a, nil
}

// WriteTrust writes what a server needs to know, all of it public: the operator's token and those of
// its own accounts. Accounts of integrators that are there already stay.
func (a Authority) WriteTrust(dir string) error {
	system, err := a.system.PublicKey()
	if err != nil {
		return err
	}
	public, err := a.operator.PublicKey()
	if err != nil {
		return err
	}
	o := jwt.NewOperatorClaims(public)
	o.Name, o.SystemAccount = operatorName, system
	token, err := o.Encode(a.operator)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, dirAccounts), 0o755); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, fileOperator), token); err != nil {
		return err
	}
	own := jwt.NewAccountClaims(system)
	own.Name = "SYS"
	if err := a.writeAccount(dir, own); err != nil {
		return err
	}
	roles, err := a.rolesAccount()
	if err != nil {
		return err
	}
	return a.writeAccount(dir, roles)
}

// rolesAccount is the account of the node's own processes: what a role may do stands in the scope of
// its key, so that a new version needs a new token for the account and no new credentials. [F-5]
func (a Authority) rolesAccount() (*jwt.AccountClaims, error) {
	public, err := a.account.PublicKey()
	if err != nil {
		return nil, err
	}
	c := jwt.NewAccountClaims(public)
	c.Name = accountsName
	c.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit, MaxAckPending: jwt.NoLimit}
	for _, r := range natsRoles() {
		key, err := a.roles[r].PublicKey()
		if err != nil {
			return nil, err
		}
		scope := jwt.NewUserScope()
		scope.Key, scope.Role = key, string(r)
		scope.Template.Permissions = allowed(bridge.Permissions(r))
		c.SigningKeys.AddScopedSigner(scope)
	}
	return c, nil
}

// allowed denies everything to who has no subjects: an empty list means "all" to the server.
func allowed(publish, subscribe []string) (p jwt.Permissions) {
	allow := func(subjects []string) jwt.Permission {
		if len(subjects) == 0 {
			return jwt.Permission{Deny: jwt.StringList{">"}}
		}
		return jwt.Permission{Allow: slices.Clone(subjects)}
	}
	p.Pub, p.Sub = allow(publish), allow(subscribe)
	return p
}

func (a Authority) writeAccount(dir string, c *jwt.AccountClaims) error {
	token, err := c.Encode(a.operator)
	if err != nil {
		return fmt.Errorf("broker: account %s: %w", c.Name, err)
	}
	return writeFile(filepath.Join(dir, dirAccounts, c.Subject+".jwt"), token)
}

// writeFile replaces a file at once: a server may be reading it.
func writeFile(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(credsAccounts), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error counts
	}
	return err
}

// RoleCreds makes the credentials of a role: a token and the key that proves it.
func (a Authority) RoleCreds(r bridge.Role) ([]byte, error) {
	key, ok := a.roles[r]
	if !ok {
		return nil, fmt.Errorf("broker: no NATS role %q", r)
	}
	account, err := a.account.PublicKey()
	if err != nil {
		return nil, err
	}
	return creds(string(r), account, key, jwt.UserPermissionLimits{}, 0)
}

// creds makes a user of an account and returns its credentials file.
func creds(name, account string, signer nkeys.KeyPair, limits jwt.UserPermissionLimits, life time.Duration) ([]byte, error) {
	user, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	public, err1 := user.PublicKey()
	seed, err2 := user.Seed()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	c := jwt.NewUserClaims(public)
	c.Name, c.IssuerAccount, c.UserPermissionLimits = name, account, limits
	if life != 0 {
		c.Expires = time.Now().Add(life).Unix()
	}
	token, err := c.Encode(signer)
	if err != nil {
		return nil, err
	}
	return jwt.FormatUserConfig(token, seed)
}

// IntegratorCreds is what [Authority.NewIntegrator] makes.
type IntegratorCreds struct {
	Account   string // public key
	User      []byte // credentials of the integrator
	Publisher []byte // credentials under which the broker publishes into the account
	Remote    []byte // credentials under which the SMS worker calls the integrator; nil without sms
}

// integratorName bounds what may stand in a subject, a file name and a log.
var integratorName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// Bounds of an integrator's account.
const (
	integratorDisk        = 256 << 20
	integratorMemory      = 16 << 20
	integratorConnections = 20
	integratorStreams     = 4
	integratorConsumers   = 32
)

// NewIntegrator makes an account of its own for an integrator and writes its token to dir, where a
// running server finds it. sms lets it be a route for SMS, too. Nobody but the integrator, the broker's
// publisher and, with sms, the SMS worker has a user in it; the account's own key is thrown away, so
// nobody can make more. The integrator's credentials end after life, counted in whole seconds: 0 is
// never, and a negative life has ended.
func (a Authority) NewIntegrator(dir, name string, sms bool, life time.Duration) (IntegratorCreds, error) {
	if !integratorName.MatchString(name) {
		return IntegratorCreds{}, fmt.Errorf("broker: %q is no name for an integrator: small letters, digits and dashes, at most 32", name)
	}
	account, err := nkeys.CreateAccount()
	if err != nil {
		return IntegratorCreds{}, err
	}
	public, err := account.PublicKey()
	if err != nil {
		return IntegratorCreds{}, err
	}
	c := jwt.NewAccountClaims(public)
	c.Name = "integrator-" + name
	c.Limits.Conn = integratorConnections
	c.Limits.JetStreamLimits = jwt.JetStreamLimits{
		MemoryStorage: integratorMemory, DiskStorage: integratorDisk, Streams: integratorStreams, Consumer: integratorConsumers, MaxAckPending: jwt.NoLimit,
	}
	made := IntegratorCreds{Account: public}
	user := func(name string, life time.Duration, publish, subscribe []string) []byte {
		limits := jwt.NewUserClaims(public).UserPermissionLimits
		limits.Permissions = allowed(publish, subscribe)
		b, err2 := creds(name, "", account, limits, life)
		err = errors.Join(err, err2)
		return b
	}
	publish, subscribe := bridge.IntegratorPermissions(sms)
	made.User = user(name, life, publish, subscribe)
	publish, subscribe = bridge.PublisherPermissions()
	made.Publisher = user("bluejay", 0, publish, subscribe)
	if sms {
		publish, subscribe = bridge.RemotePermissions()
		made.Remote = user("bluejay-sms", 0, publish, subscribe)
	}
	if err != nil {
		return IntegratorCreds{}, err
	}
	return made, a.writeAccount(dir, c)
}

// RemoveIntegrator takes an account's token away: nobody can connect to it any more. Connections that
// are open end when the server asks for the token again, at its next start at the latest.
func RemoveIntegrator(dir, account string) error {
	if !nkeys.IsValidPublicAccountKey(account) {
		return errors.New("broker: not an account")
	}
	return os.Remove(filepath.Join(dir, dirAccounts, account+".jwt"))
}
