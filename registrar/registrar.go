package registrar

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"bluejay/blind"
	"bluejay/envelope"
	"bluejay/wire"
)

// Jobs queues the SMS of a one-time password; nil means stored durably.
type Jobs interface {
	PublishUrgent(ctx context.Context, payload []byte) error
}

// Config is what a registrar needs. Keys, Counts, Jobs and WorkerKey are required.
type Config struct {
	Cert   ed25519.PrivateKey       // signs certificates
	Root   ed25519.PrivateKey       // signs worker keys; handsets pin it
	VOPRF  blind.ServerKey          // turns numbers into IDs
	Secret envelope.RegistrarSecret // opens requests
	KID    byte                     // of Cert, written into certificates
	Counts Counts
	Jobs   Jobs
	// WorkerKey returns the current worker key; false: none is known, and nobody can enrol.
	WorkerKey func() (wire.WorkerKey, bool)
	Consents  Consents         // nil: no revocation can be applied, and STOP is answered "unavailable"
	Records   Records          // nil: nobody is told what is held, and nothing is erased
	Now       func() time.Time // nil: time.Now
	// CertLifetime is how long a certificate lasts. Zero, or more than 180 days: 180 days, after
	// which a number must be proved anew in any case.
	CertLifetime time.Duration
	Quotas       Quotas
	Log          *slog.Logger // takes one entry for each signature made. Nil: nothing is logged
}

// Quotas bounds what callers may use up. Zero means the default, in brackets. [P-11]
type Quotas struct {
	Lookups      int // look-ups of one ID in its lifetime [500]
	DailyLookups int // of one ID a day, after that [50]
	DailyHellos  int // look-ups of one ID a day that a hello caused [10]
	HourlyNumber int // passwords sent to one number an hour [3]
	DailyNumber  int // and a day [6]
	HourlyPlace  int // passwords asked for from one network address an hour [30]
	Pending      int // enrolments under way at once [4,096]
	HourlyAsked  int // questions what is held, an hour [1,000]
	DailyErased  int // numbers erased a day [100]
}

func (q Quotas) withDefaults() Quotas {
	for _, v := range []struct {
		value     *int
		otherwise int
	}{
		{&q.Lookups, 500}, {&q.DailyLookups, 50}, {&q.DailyHellos, 10},
		{&q.HourlyNumber, 3}, {&q.DailyNumber, 6}, {&q.HourlyPlace, 30}, {&q.Pending, 4096}, {&q.HourlyAsked, 1000}, {&q.DailyErased, 100},
	} {
		if *v.value == 0 {
			*v.value = v.otherwise
		}
	}
	return q
}

// ErrConfig reports a [Config] that lacks a part or has one out of range.
var ErrConfig = errors.New("registrar: bad configuration")

// Registrar answers requests. Its handlers may be called by any number of goroutines.
type Registrar struct {
	cfg   Config
	log   *slog.Logger
	certs wire.PublicKey // verifies certificates
	root  wire.PublicKey
	boot  [32]byte // keys what is held in RAM; lost with the process

	mu      sync.Mutex
	pending map[token]*attempt
	order   []dated // of pending, oldest first; also of what is gone already
	hourly  meter   // by number
	daily   meter   // by number
	places  meter   // by address token

	questions meter // all under one key
	erasures  meter // the zero key has their number, the others which
}

// New checks the configuration; it starts nothing.
func New(c Config) (*Registrar, error) {
	c.Quotas = c.Quotas.withDefaults()
	if c.CertLifetime == 0 || c.CertLifetime > reproof {
		c.CertLifetime = reproof
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	r := &Registrar{
		cfg: c, log: c.Log, pending: map[token]*attempt{},
		certs: wire.PublicKey(c.Cert.Public().(ed25519.PublicKey)), root: wire.PublicKey(c.Root.Public().(ed25519.PublicKey)),
		hourly: newMeter(time.Hour, c.Quotas.HourlyNumber), daily: newMeter(day, c.Quotas.DailyNumber),
		places:    newMeter(time.Hour, c.Quotas.HourlyPlace),
		questions: newMeter(time.Hour, c.Quotas.HourlyAsked), erasures: newMeter(day, c.Quotas.DailyErased),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if _, err := rand.Read(r.boot[:]); err != nil {
		return nil, fmt.Errorf("registrar: %w", err)
	}
	return r, nil
}

func (c Config) check() error {
	switch {
	case len(c.Cert) != ed25519.PrivateKeySize || len(c.Root) != ed25519.PrivateKeySize:
		return fmt.Errorf("%w: two Ed25519 keys are needed", ErrConfig)
	case c.VOPRF.Public() == nil || c.Secret.Public() == nil:
		return fmt.Errorf("%w: the VOPRF key and the sealing key are needed", ErrConfig)
	case c.Counts == nil || c.Jobs == nil || c.WorkerKey == nil:
		return fmt.Errorf("%w: counts, jobs and the worker's key are needed", ErrConfig)
	case c.CertLifetime < time.Hour:
		return fmt.Errorf("%w: a certificate lasts at least an hour", ErrConfig)
	}
	for _, q := range []int{
		c.Quotas.Lookups, c.Quotas.DailyLookups, c.Quotas.DailyHellos,
		c.Quotas.HourlyNumber, c.Quotas.DailyNumber, c.Quotas.HourlyPlace, c.Quotas.Pending,
		c.Quotas.HourlyAsked, c.Quotas.DailyErased,
	} {
		if q < 0 || q > math.MaxUint16 {
			return fmt.Errorf("%w: a quota is at most %d", ErrConfig, math.MaxUint16)
		}
	}
	return nil
}

func answer(c wire.Code, body ...byte) []byte { return append([]byte{byte(c)}, body...) }

// HandleLookup answers ID 12 ‖ kind 1 ‖ blinded batch with OK ‖ evaluated batch. Codes: BadRecord,
// OverQuota (nothing was counted), Unavailable. The broker vouches for the ID. [P-11]
func (r *Registrar) HandleLookup(ctx context.Context, req []byte) []byte {
	const head = len(wire.ID{}) + 1
	if len(req) <= head || wire.LookupKind(req[head-1]) > wire.LookupByHello {
		return answer(wire.BadRecord)
	}
	id, kind, batch := wire.ID(req), wire.LookupKind(req[head-1]), req[head:]
	n := int(batch[0])
	if n == 0 || n > blind.MaxBatch || len(batch) != 1+32*n {
		return answer(wire.BadRecord)
	}
	if code := r.mayLookUp(ctx, id, kind, n); code != wire.OK {
		return answer(code) // before the costly part
	}
	evaluated, err := r.cfg.VOPRF.Evaluate(batch)
	if err != nil {
		return answer(wire.BadRecord)
	}
	_, code := r.change(ctx, id, func(c *Count) wire.Code { return c.lookUp(kind, n, r.cfg.Now(), r.cfg.Quotas) })
	if code != wire.OK {
		return answer(code)
	}
	return answer(wire.OK, evaluated...)
}

func (r *Registrar) mayLookUp(ctx context.Context, id wire.ID, kind wire.LookupKind, n int) wire.Code {
	c, _, err := r.cfg.Counts.Load(ctx, id)
	if err != nil {
		return wire.Unavailable
	}
	return c.lookUp(kind, n, r.cfg.Now(), r.cfg.Quotas)
}

// changeTries bounds how often a change is tried again when others change the same ID.
const changeTries = 8

// change applies f to an ID's count and stores it, unless f refuses. It returns what was stored.
func (r *Registrar) change(ctx context.Context, id wire.ID, f func(*Count) wire.Code) (Count, wire.Code) {
	for range changeTries {
		c, rev, err := r.cfg.Counts.Load(ctx, id)
		if err != nil {
			return Count{}, wire.Unavailable
		}
		before := c
		if code := f(&c); code != wire.OK || c == before {
			return c, code
		}
		err = r.cfg.Counts.Save(ctx, id, c, rev)
		if err == nil {
			return c, wire.OK
		}
		if !errors.Is(err, ErrConflict) {
			break
		}
	}
	return Count{}, wire.Unavailable
}

// HandleCheck answers message id 16 ‖ number BCD 8 ‖ sealed sender: OK if the sender of that message
// owns the number, NotAllowed if not, BadRecord if it cannot be read. Only a worker may ask: the
// answer tells whether a guessed number is the sender's. [F-6]
func (r *Registrar) HandleCheck(_ context.Context, req []byte) []byte {
	const head = len(wire.MessageID{}) + 8
	if len(req) <= head {
		return answer(wire.BadRecord)
	}
	n, err := wire.NumberFromBCD([8]byte(req[len(wire.MessageID{}):]))
	if err != nil {
		return answer(wire.BadRecord)
	}
	id, m, err := r.cfg.Secret.OpenSender(req[head:])
	if err != nil {
		return answer(wire.BadRecord)
	}
	owner, err := r.cfg.VOPRF.FullEvaluate(n)
	if err != nil {
		return answer(wire.BadRecord)
	}
	if m != wire.MessageID(req) || owner != id {
		return answer(wire.NotAllowed)
	}
	return answer(wire.OK)
}

// maxWorkerKey is the longest a worker key may be valid: a day and a day of grace, and an hour for
// a key made ahead. [F-2]
const maxWorkerKey = 49 * time.Hour

// HandleSign answers an unsigned worker key, 42 bytes, with OK ‖ the signed record. Codes: BadRecord,
// OutOfTime (longer than 49 h, over, or more than a day ahead). Only a worker may ask. [F-2]
func (r *Registrar) HandleSign(_ context.Context, req []byte) []byte {
	if len(req) != wire.WorkerKeyLen-len(wire.Signature{}) {
		return answer(wire.BadRecord)
	}
	k, err := wire.ParseWorkerKey(append(req[:len(req):len(req)], make([]byte, len(wire.Signature{}))...))
	if err != nil || k.Public == [32]byte{} || k.NotAfter <= k.NotBefore {
		return answer(wire.BadRecord)
	}
	from, until, now := wire.Time32(k.NotBefore), wire.Time32(k.NotAfter), r.cfg.Now()
	if until.Sub(from) > maxWorkerKey || !until.After(now) || from.After(now.Add(day)) {
		return answer(wire.OutOfTime)
	}
	k.Sign(r.cfg.Root)
	r.log.Info("audit: signed a worker key", "kid", k.KID, "until", until.UTC())
	return answer(wire.OK, k.Marshal()...)
}

// keyed is a one-way mark of a value, under a key that only this process has ever had. The same
// value under two labels has unrelated marks.
func (r *Registrar) keyed(label string, parts ...[]byte) token {
	return sha256.Sum256(wire.LP(label, append(parts, r.boot[:])...))
}
