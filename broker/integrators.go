package broker

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"bluejay/bridge"
	"bluejay/consent"
	"bluejay/fallback"
	"bluejay/wire"
)

// Integrator is somebody who subscribes to what users agreed to share with integrators. [E-1]
type Integrator struct {
	Name  string
	Key   []byte // K_integrator, at least 16 bytes: makes this integrator's pseudonyms
	Creds string // file of the publisher's credentials in the integrator's account
}

// EventCounts are a broker's figures about integrators since start.
type EventCounts struct {
	Integrators int
	Published   int64 // events stored at an integrator
	Withheld    int64 // events of users who did not agree when they were to leave
	Withdrawn   int64 // users taken back from an integrator
}

// integrators passes transitions of SMS jobs on: each to every integrator, under that one's pseudonym,
// if the user agrees at that moment. One consumer for each, so that one who is away holds up nobody.
//
// Invariant: an event is published, and a user is withdrawn, under the user's lock, so that nothing is
// published about a user after Withdraw has returned. [C-revoke]
type integrators struct {
	list   func() ([]Integrator, error)
	bridge *bridge.Bridge
	nats   *NATS // nil: url
	url    string
	source string // the broker's name
	key    []byte // seals parties
	store  bridge.Store
	policy func() consent.Policy
	log    func(msg string, args ...any)

	published, withheld, withdrawn atomic.Int64

	mu   sync.Mutex // guards what follows
	open map[string]*outlet
	wg   sync.WaitGroup

	users [256]sync.Mutex // by the first byte of an ID
}

// outlet is one integrator being served.
type outlet struct {
	who  Integrator
	conn *bridge.Integrator
	stop context.CancelFunc
}

// reread is how often the list of integrators is read again.
const reread = 5 * time.Second

func (b *Broker) newIntegrators() *integrators {
	warn := func(msg string, args ...any) { b.cfg.Log.Warn(msg, args...) }
	return &integrators{
		list: b.cfg.Integrators, bridge: b.bridge, nats: b.nats, url: b.NATSURL(), source: b.cfg.Name,
		key: partyKey(b.cfg.TagKey), store: b.bridge.Store(), policy: func() consent.Policy { return *b.policy.Load() }, log: warn, open: map[string]*outlet{},
	}
}

// run serves the integrators until ctx ends.
func (x *integrators) run(ctx context.Context) {
	for {
		x.refresh(ctx)
		t := time.NewTimer(reread)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			x.close()
			return
		}
	}
}

// refresh opens who is new and closes who is gone.
func (x *integrators) refresh(ctx context.Context) {
	list, err := x.list()
	if err != nil {
		x.log("the integrators cannot be read; those known are served on", "error", err)
		return
	}
	wanted := map[string]Integrator{}
	for _, i := range list {
		wanted[i.Name] = i
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for name, o := range x.open {
		if _, ok := wanted[name]; !ok {
			o.stop()
			o.conn.Close()
			delete(x.open, name)
			if err := x.bridge.ForgetEvents(ctx, consumerOf(name)); err != nil {
				x.log("an integrator's place is not forgotten", "integrator", name, "error", err)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if x.open[name] == nil {
			x.start(ctx, wanted[name])
		}
	}
}

// start opens one integrator; x.mu is held.
func (x *integrators) start(ctx context.Context, who Integrator) {
	conn, err := x.connect(ctx, who)
	if err == nil {
		if err = x.bridge.KeepEvents(ctx, consumerOf(who.Name)); err != nil {
			conn.Close()
		}
	}
	if err != nil {
		x.log("an integrator cannot be reached; its events wait", "integrator", who.Name, "error", err)
		return
	}
	ctx, stop := context.WithCancel(ctx)
	o := &outlet{who: who, conn: conn, stop: stop}
	x.open[who.Name] = o
	x.wg.Go(func() {
		err := x.bridge.PullEvents(ctx, consumerOf(who.Name), func(ctx context.Context, t fallback.Transition) error { return x.pass(ctx, o, t) })
		if err != nil {
			x.log("an integrator's events have ended", "integrator", who.Name, "error", err)
		}
	})
}

// consumerOf names an integrator's place in the stream of events.
func consumerOf(name string) string { return "integrator-" + name }

func (x *integrators) connect(ctx context.Context, who Integrator) (*bridge.Integrator, error) {
	c := bridge.IntegratorConfig{URL: x.url, Creds: who.Creds, Name: who.Name}
	if x.nats != nil {
		c.InProcess = x.nats
	}
	return x.bridge.OpenIntegrator(ctx, c)
}

func (x *integrators) close() {
	x.mu.Lock()
	for name, o := range x.open {
		o.stop()
		o.conn.Close()
		delete(x.open, name)
	}
	x.mu.Unlock()
	x.wg.Wait()
}

// pass publishes a transition to one integrator, if its user agrees now. nil: it is done with, be it
// published or withheld. [E-1] [E-4]
func (x *integrators) pass(ctx context.Context, o *outlet, t fallback.Transition) error {
	id, err := openParty(x.key, t.Party, time.Now())
	if err != nil {
		x.withheld.Add(1)
		return nil // too old, or nothing of ours: it can never leave
	}
	lock := &x.users[id[0]]
	lock.Lock()
	defer lock.Unlock()
	agrees, err := x.agrees(ctx, id)
	if err != nil {
		return err
	}
	if !agrees {
		x.withheld.Add(1)
		return nil
	}
	e, err := wire.NewSMSEvent(x.source, wire.IntegratorPseudonym(o.who.Key, id), t.At, wire.SMSEvent{
		Message: t.Message.String(), State: t.State, Attempt: t.Attempt, Parts: t.Parts, Route: t.Route,
	})
	if err != nil {
		return nil // a state that integrators do not know
	}
	if err := publishEvent(ctx, o.conn, e); err != nil {
		return err
	}
	x.published.Add(1)
	return nil
}

// agrees reads whether a user agrees to integrations now, from the store: a revocation is there before
// anything else happens for it. [C-revoke]
func (x *integrators) agrees(ctx context.Context, id wire.ID) (bool, error) {
	st, err := x.store.Load(ctx, id)
	return x.policy().Scopes(st, time.Now()).Has(wire.ScopeIntegrations), err
}

func publishEvent(ctx context.Context, to *bridge.Integrator, e wire.CloudEvent) error {
	b, err := e.Marshal()
	if err != nil {
		return err
	}
	return to.Publish(ctx, wire.IntegratorSubject(e), e.ID, b)
}

// withdraw takes a user back from every integrator before a revocation is acknowledged: what is stored
// there about the user goes, one event says so, and no other follows. For a user who agreed until now,
// an integrator that cannot be reached fails it, and with it the acknowledgement: the device, or the
// registrar, tries again. For one who did not, nothing can be there, unless a crash came in between.
// [C-revoke] [E-5]
func (x *integrators) withdraw(ctx context.Context, id wire.ID, had bool) error {
	lock := &x.users[id[0]]
	lock.Lock()
	defer lock.Unlock()
	list, err := x.list()
	if err != nil {
		return fmt.Errorf("broker: integrators: %w", err)
	}
	var errs []error
	for _, who := range list {
		err := x.withdrawFrom(ctx, who, id, had)
		if err != nil && !had {
			x.log("an integrator cannot be asked to forget", "integrator", who.Name, "error", err)
			continue
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (x *integrators) withdrawFrom(ctx context.Context, who Integrator, id wire.ID, had bool) error {
	conn, done, err := x.reach(ctx, who)
	if err != nil {
		return err
	}
	defer done()
	pseudonym := wire.IntegratorPseudonym(who.Key, id)
	stored, err := conn.Purge(ctx, wire.SubjectsAbout(pseudonym))
	if err != nil || !stored && !had {
		return err
	}
	e, err := wire.NewWithdrawnEvent(x.source, pseudonym, time.Now())
	if err != nil {
		return err
	}
	x.withdrawn.Add(1)
	return publishEvent(ctx, conn, e)
}

// reach returns the connection to an integrator's account, opened if it is not; done gives it back.
func (x *integrators) reach(ctx context.Context, who Integrator) (conn *bridge.Integrator, done func(), err error) {
	x.mu.Lock()
	o := x.open[who.Name]
	x.mu.Unlock()
	if o != nil {
		return o.conn, func() {}, nil
	}
	if conn, err = x.connect(ctx, who); err != nil {
		return nil, nil, err
	}
	return conn, conn.Close, nil
}

func (x *integrators) counts() EventCounts {
	x.mu.Lock()
	defer x.mu.Unlock()
	return EventCounts{Integrators: len(x.open), Published: x.published.Load(), Withheld: x.withheld.Load(), Withdrawn: x.withdrawn.Load()}
}

// A party is an ID sealed by the broker for itself, so that an event about a job finds back to its
// sender while neither the queue nor the worker learns who that is. Shape: nonce 24 | AEAD(ID 12 |
// Unix day u32) 32. [E-4]
const partyLen = chacha20poly1305.NonceSizeX + 12 + 4 + chacha20poly1305.Overhead

// partyDays is how many days a party can be opened: a job lives one, its receipt comes within another.
const partyDays = 3

func partyKey(tagKey []byte) []byte {
	m := hmac.New(sha256.New, tagKey)
	m.Write(wire.LP("bj1 party"))
	return m.Sum(nil)
}

func sealParty(key []byte, id wire.ID, now time.Time) ([]byte, error) {
	a, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, chacha20poly1305.NonceSizeX, partyLen)
	_, _ = rand.Read(nonce) // never fails, see crypto/rand
	return a.Seal(nonce, nonce, binary.BigEndian.AppendUint32(id[:], uint32(now.Unix()/86400)), nil), nil
}

// errParty says that a party is not one of this node's, or too old.
var errParty = errors.New("broker: not a party of this node")

func openParty(key, party []byte, now time.Time) (wire.ID, error) {
	a, err := chacha20poly1305.NewX(key)
	if err != nil || len(party) != partyLen {
		return wire.ID{}, errParty
	}
	plain, err := a.Open(nil, party[:chacha20poly1305.NonceSizeX], party[chacha20poly1305.NonceSizeX:], nil)
	if err != nil {
		return wire.ID{}, errParty
	}
	if age := now.Unix()/86400 - int64(binary.BigEndian.Uint32(plain[12:])); age < 0 || age >= partyDays {
		return wire.ID{}, errParty
	}
	return wire.ID(plain), nil
}
