package broker

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"bluejay/bridge"
	"bluejay/consent"
	"bluejay/fallback"
	"bluejay/wire"
)

// pseudonymDays is how long ago a pseudonym may have been of use and still stand somewhere: a job waits for up to a
// day, and is a dead letter for seven more.
const pseudonymDays = 10

// spentDays is the same for counters, which live for 48 hours.
const spentDays = 4

// keeper answers the registrar what this node stores under an ID, and erases it. It learns no number. [H-1] [H-6]
type keeper struct {
	bridge  *bridge.Bridge
	tagKey  []byte
	outlets *integrators // nil: no integrators
}

func (b *Broker) keeper() keeper { return keeper{b.bridge, b.cfg.TagKey, b.outlets} }

// HandleKept answers with a page of what is stored under an ID: codes BadRecord, Unavailable. [H-1]
func (k keeper) HandleKept(ctx context.Context, req []byte) []byte {
	id, skip, err := wire.ParseKept(req)
	if err != nil {
		return []byte{byte(wire.BadRecord)}
	}
	held, err := k.held(ctx, id)
	if err != nil {
		return []byte{byte(wire.Unavailable)}
	}
	page, err := wire.PageOf(held, skip)
	if err != nil {
		return []byte{byte(wire.Unavailable)}
	}
	return append([]byte{byte(wire.OK)}, page...)
}

// held looks in the same places in the same order, whoever it is. [H-2]
func (k keeper) held(ctx context.Context, id wire.ID) ([]wire.Held, error) {
	var all []wire.Held
	for _, f := range []func(context.Context, wire.ID) ([]wire.Held, error){k.consent, k.byPseudonym, k.events, k.sent, k.spent, k.atIntegrators} {
		held, err := f(ctx, id)
		if err != nil {
			return nil, err
		}
		all = append(all, held...)
	}
	return all, nil
}

func (k keeper) consent(ctx context.Context, id wire.ID) ([]wire.Held, error) {
	held, err := k.bridge.Store().Held(ctx, id)
	for i := range held {
		if st, err := consent.Unpack(id, held[i].Raw); err == nil {
			held[i].Value = viewOf(id, st)
		}
	}
	return held, err
}

// viewOf is a state for people, with the proof that verifies offline.
func viewOf(id wire.ID, st consent.State) json.RawMessage {
	at := func(u uint32) string { return wire.Time32(u).UTC().Format(time.RFC3339) }
	v := map[string]any{"id": id.String(), "tag_generation": st.Gen, "seq": st.Seq}
	if c := st.Cert; c != nil {
		v["certificate"] = map[string]any{
			"device": hex.EncodeToString(c.Device[:]), "issued_at": at(c.IssuedAt), "not_after": c.NotAfter().UTC().Format(time.RFC3339), "kid": c.KID,
		}
	}
	if r := st.Record; r != nil {
		v["consent"] = map[string]any{
			"scopes": scopesOf(r.Scopes), "listed": r.Visibility == wire.Listed, "seq": r.Seq,
			"issued_at": at(r.IssuedAt), "expires_at": at(r.ExpiresAt), "notice": hex.EncodeToString(r.Notice[:]),
		}
		v["receipt"] = map[string]any{"received_at": at(st.Receipt.ReceivedAt)}
		if st.Cert != nil {
			v["proof"] = append(append(st.Cert.Marshal(), r.Marshal()...), st.Receipt.Marshal()...)
		}
	}
	if o := st.Off; o != nil {
		v["revocation"] = map[string]any{"cause": o.Cause, "seq": o.Seq, "issued_at": at(o.IssuedAt), "record": o.Marshal()}
	}
	if entries := entriesOf(st); len(entries) > 0 {
		v["log"] = entries
	}
	b, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null")
	}
	return b
}

// entriesOf is where the state's events are in the consent log, with what proves it. [L-2]
func entriesOf(st consent.State) (all []map[string]any) {
	for e, name := range map[consent.Event]string{consent.EventRecord: "consent", consent.EventRevocation: "revocation", consent.EventDevice: "certificate"} {
		if at := st.Logged(e); !at.IsZero() {
			all = append(all, map[string]any{"event": name, "index": at.Index, "salt": hex.EncodeToString(at.Salt[:])})
		}
	}
	slices.SortFunc(all, func(a, b map[string]any) int { return cmp.Compare(a["index"].(uint64), b["index"].(uint64)) })
	return all
}

var scopes = []struct {
	bit  wire.Scope
	name string
}{
	{wire.ScopeMessaging, "messaging"}, {wire.ScopePresence, "presence"}, {wire.ScopeGateway, "gateway"},
	{wire.ScopeBackup, "backup"}, {wire.ScopeIntegrations, "integrations"},
}

func scopesOf(s wire.Scope) []string {
	names := []string{}
	for _, x := range scopes {
		if s.Has(x.bit) {
			names = append(names, x.name)
		}
	}
	return names
}

// pseudonyms are those under which something may still be stored.
func (k keeper) pseudonyms(id wire.ID) []wire.Pseudonym {
	today := uint32(time.Now().Unix() / 86400)
	ps := make([]wire.Pseudonym, pseudonymDays)
	for i := range ps {
		ps[i] = wire.MakePseudonym(k.tagKey, id, today-uint32(i))
	}
	return ps
}

// byPseudonym returns jobs, outcomes and dead letters.
func (k keeper) byPseudonym(ctx context.Context, id wire.ID) (all []wire.Held, err error) {
	for _, p := range k.pseudonyms(id) {
		for _, at := range []struct{ stream, subject string }{
			{wire.StreamJobs, wire.JobSubject(wire.ClassNormal, p)}, {wire.StreamOutcomes, wire.OutcomeSubject(p)},
			{bridge.StreamDead, bridge.DeadSubject(wire.ClassNormal, p)},
		} {
			held, err := k.bridge.About(ctx, at.stream, at.subject)
			if err != nil {
				return nil, err
			}
			all = append(all, held...)
		}
	}
	for i := range all {
		if o, err := wire.ParseOutcome(all[i].Raw); err == nil && all[i].Store == wire.StreamOutcomes {
			all[i].Value, _ = json.Marshal(map[string]string{"message": o.Message.String(), "state": o.State.String()})
		}
	}
	return all, nil
}

// events returns the steps of jobs that wait for integrators; each has its user sealed by this node. [E-4]
func (k keeper) events(ctx context.Context, id wire.ID) (all []wire.Held, err error) {
	key, now := partyKey(k.tagKey), time.Now()
	err = k.bridge.EachHeld(ctx, wire.StreamEvents, func(h wire.Held) error {
		if who, err := openParty(key, partyOf(h), now); err == nil && who == id {
			h.Value = json.RawMessage(h.Raw)
			all = append(all, h)
		}
		return nil
	})
	return all, err
}

func partyOf(h wire.Held) []byte {
	b, err := base64.RawURLEncoding.DecodeString(h.Header[wire.HeaderParty])
	if err != nil {
		return nil
	}
	return b
}

// sent returns rows of the worker's journal about jobs that the user sent. The worker cannot tell whose they are.
func (k keeper) sent(ctx context.Context, id wire.ID) (all []wire.Held, err error) {
	err = k.rows(ctx, id, func(h wire.Held, _ fallback.Entry) error {
		all = append(all, h)
		return nil
	})
	return wire.Newest(all), err
}

func (k keeper) rows(ctx context.Context, id wire.ID, f func(wire.Held, fallback.Entry) error) error {
	mine := map[wire.Pseudonym]bool{}
	for _, p := range k.pseudonyms(id) {
		mine[p] = true
	}
	key, now := partyKey(k.tagKey), time.Now()
	return k.bridge.Journal().EachHeld(ctx, func(h wire.Held, e fallback.Entry) error {
		who, err := openParty(key, e.Party, now)
		if mine[e.Sender] || err == nil && who == id {
			return f(h, e)
		}
		return nil
	})
}

// spent returns the counters of what the user sent. An erasure leaves them: they bound toll fraud for 48 hours.
func (k keeper) spent(ctx context.Context, id wire.ID) (all []wire.Held, err error) {
	for _, p := range k.pseudonyms(id)[:spentDays] {
		held, err := k.bridge.About(ctx, wire.StreamCaps, wire.CapSubject("*.sender."+p.String()))
		if err != nil {
			return nil, err
		}
		all = append(all, held...)
	}
	for i := range all {
		all[i].Value = json.RawMessage(all[i].Raw)
	}
	return all, nil
}

func (k keeper) atIntegrators(ctx context.Context, id wire.ID) (all []wire.Held, err error) {
	if k.outlets == nil {
		return nil, nil
	}
	list, err := k.outlets.list()
	if err != nil {
		return nil, err
	}
	for _, who := range list {
		held, err := k.atIntegrator(ctx, who, id)
		if err != nil {
			return nil, err
		}
		all = append(all, held...)
	}
	return all, nil
}

func (k keeper) atIntegrator(ctx context.Context, who Integrator, id wire.ID) ([]wire.Held, error) {
	conn, done, err := k.outlets.reach(ctx, who)
	if err != nil {
		return nil, err
	}
	defer done()
	return conn.Held(ctx, wire.SubjectsAbout(wire.IntegratorPseudonym(who.Key, id)))
}

// HandleForget takes one step of an erasure. Codes: BadRecord, Unavailable, StaleRecord (the ID's last word is no
// erasure: revoke first). Doing it again does no harm. [H-6] [H-7]
func (k keeper) HandleForget(ctx context.Context, req []byte) []byte {
	step, id, err := wire.ParseForget(req)
	if err != nil {
		return []byte{byte(wire.BadRecord)}
	}
	if step == wire.ForgetMark {
		err = k.mark(ctx, id)
	} else {
		err = k.forget(ctx, id)
	}
	var code wire.Code
	switch {
	case err == nil:
		return []byte{byte(wire.OK)}
	case errors.As(err, &code) && code == wire.StaleRecord:
		return []byte{byte(code)}
	}
	return []byte{byte(wire.Unavailable)}
}

// mark voids the certificates that there are, before they are forgotten: the erased handset has one, and could
// begin anew with it. [H-7]
func (k keeper) mark(ctx context.Context, id wire.ID) error {
	st, err := k.bridge.Store().Load(ctx, id)
	if err != nil || st.Cert == nil {
		return err
	}
	return k.bridge.Store().Void(ctx, *st.Cert, time.Now())
}

// forget erases what held finds, but for what the integrators were told: their streams have been purged by the
// revocation, and the word that they are to forget stays with them. [H-6] [E-5]
func (k keeper) forget(ctx context.Context, id wire.ID) error {
	st, err := k.bridge.Store().Load(ctx, id)
	if err != nil {
		return err
	}
	if st.Revision != 0 && (st.Off == nil || st.Off.Cause != wire.CauseErasure) {
		return wire.StaleRecord
	}
	for _, f := range []func(context.Context, wire.ID) ([]wire.Held, error){k.byPseudonym, k.events} {
		held, err := f(ctx, id)
		if err != nil {
			return err
		}
		if err := k.bridge.EraseHeld(ctx, held); err != nil {
			return err
		}
	}
	err = k.rows(ctx, id, func(h wire.Held, e fallback.Entry) error {
		e.Sender, e.Party = wire.Pseudonym{}, nil
		return k.bridge.Journal().Rewrite(ctx, h, e)
	})
	if err != nil {
		return err // a row that a worker changed meanwhile, too: asked again, it is found
	}
	return k.bridge.Store().Erase(ctx, id, st.Revision)
}
