package handset

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"bluejay/fallback"
	"bluejay/wire"
)

// timeNow is the time where no event carries it.
func timeNow() time.Time { return time.Now() }

// AddContact makes a contact and looks its number up, once: the ID is kept for ever. Whether the
// number's owner uses Bluejay is not known by that; until a conversation opens the contact is grey.
// Without a connection the look-up waits for one. A number that is a contact already keeps its ID
// and gets the name. An error after the contact was made comes with its ID.
func (h *Handset) AddContact(ctx context.Context, name string, n wire.Number) (ContactID, error) {
	if n.IsZero() || strings.TrimSpace(name) == "" {
		return 0, ErrNoContact
	}
	var id ContactID
	err := h.await(ctx, func(m *model, waiter uint64) {
		c := m.addContact(name, n, "")
		id = c.ID
		m.lookUpFor(c, waiter)
	})
	return id, err
}

// AddDialled makes a contact of a short code, an emergency number or a sender's name. It is never
// looked up; texts to it are always the phone's own SMS. What is none of these is [ErrNoContact]:
// it has a number. [U-11]
func (h *Handset) AddDialled(name, dialled string) (ContactID, error) {
	if !fallback.OwnSMSOnly(dialled) {
		return 0, ErrNoContact
	}
	var id ContactID
	err := h.step(func(m *model) { id = m.addContact(name, wire.Number{}, dialled).ID })
	return id, err
}

// OpenConversation looks the contact up if that was not done, and says hello if no conversation is
// open, so that the icon can turn blue before the first text. It returns at once. [U-2] [U-8]
func (h *Handset) OpenConversation(c ContactID) error {
	return h.try(func(m *model) error {
		con := m.contacts[c]
		if con == nil || con.ownSMSOnly() {
			return ErrNoContact
		}
		if m.sending(con) == nil {
			m.hello(con, false)
		}
		return nil
	})
}

// try runs an event that may refuse.
func (h *Handset) try(event func(*model) error) error {
	var refused error
	if err := h.step(func(m *model) { refused = event(m) }); err != nil {
		return err
	}
	return refused
}

// Send puts a text into the outbox and returns once it is on disk; what becomes of it is told by
// events. [U-3] [U-6] Errors: [ErrNoContact], [ErrBlocked], [ErrTooLong], [ErrStorage].
func (h *Handset) Send(ctx context.Context, c ContactID, text string) (TextID, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	var id TextID
	err := h.try(func(m *model) (err error) { id, err = m.write(c, text); return err })
	return id, err
}

// SendAgain sends a text that failed, or waits for the user's choice, on the path chosen:
// [fallback.PathIP] waits until the contact is blue. [U-3]
func (h *Handset) SendAgain(ctx context.Context, id TextID, via fallback.Path) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if via != fallback.PathIP && via != fallback.PathDevice && via != fallback.PathGateway {
		return ErrNoText
	}
	return h.try(func(m *model) error { return m.sendAgain(id, via) })
}

// Cancel takes a waiting text back. It is failed at once if only this phone holds it; otherwise an
// event tells, and it may turn out to be too late. [U-3]
func (h *Handset) Cancel(ctx context.Context, id TextID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return h.try(func(m *model) error { return m.cancel(id) })
}

// AcceptChange accepts a contact's new device; sending goes on. [U-5]
func (h *Handset) AcceptChange(c ContactID) error {
	return h.try(func(m *model) error { return m.acceptChange(c) })
}

// Block meets a contact with silence from now on. If it could reach this device, the device moves
// to a new inbox that it is not told of. [U-4]
func (h *Handset) Block(c ContactID) error {
	return h.try(func(m *model) error { return m.block(c, true) })
}

// Unblock takes it back. The contact finds this device again by a hello.
func (h *Handset) Unblock(c ContactID) error {
	return h.try(func(m *model) error { return m.block(c, false) })
}

// SetMode sets a contact's own fallback rule; [fallback.ModeUnset] means the user's. [F-1]
func (h *Handset) SetMode(c ContactID, mode fallback.Mode) error {
	return h.try(func(m *model) error {
		if m.contacts[c] == nil || mode > fallback.ModeNever {
			return ErrNoContact
		}
		m.contacts[c].Mode = mode
		m.saveContact(m.contacts[c])
		m.pump(m.contacts[c], false)
		return nil
	})
}

// DeleteConversation erases a contact's texts from this device, those that wait included, and
// rewrites the log so that they are gone from the disk. The contact stays. [U-12]
func (h *Handset) DeleteConversation(c ContactID) error {
	return h.erase(func(m *model) error { return m.deleteTexts(c, 0) })
}

// DeleteText erases one text, as [Handset.DeleteConversation] does all. [U-12]
func (h *Handset) DeleteText(id TextID) error {
	return h.erase(func(m *model) error {
		if t := m.texts[id]; t != nil {
			return m.deleteTexts(t.Contact, id)
		}
		return ErrNoText
	})
}

func (h *Handset) erase(event func(*model) error) error {
	if err := h.try(event); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed != nil {
		return h.failed
	}
	if err := h.store.rewrite(); err != nil {
		h.failed = storageError(err)
	}
	return h.failed
}

// deleteTexts erases the texts of c, or only the one given.
func (m *model) deleteTexts(c ContactID, only TextID) error {
	con := m.contacts[c]
	if con == nil {
		return ErrNoContact
	}
	for _, t := range sorted(m.texts) {
		if t.Contact != c || only != 0 && t.ID != only && t.FoldedIn != only {
			continue
		}
		if t.Queued && t.State == Waiting {
			m.cancelJob(con, t)
		}
		m.dropJob(t)
		delete(m.texts, t.ID)
		m.erase(textKey(t.ID))
		con.queue = slices.DeleteFunc(con.queue, func(q *text) bool { return q == t })
	}
	return nil
}

// ReceiveSMS is fed by the phone's own SMS inbox. A copy of a text that came over IP is folded into
// it; another SMS of a contact is shown in its conversation; others are left to the phone. [U-9]
func (h *Handset) ReceiveSMS(from wire.Number, text string) error {
	return h.step(func(m *model) { m.receiveSMS(from, text) })
}

// SMSDelivered is fed by the phone when the network's receipt for its own SMS came.
func (h *Handset) SMSDelivered(id TextID) error {
	return h.try(func(m *model) error {
		t := m.texts[id]
		if t == nil || t.State != SMSSent || t.Path != fallback.PathDevice {
			return ErrNoText
		}
		m.setState(t, SMSDelivered)
		return nil
	})
}

// Contacts lists the contacts in the order they were made.
func (h *Handset) Contacts() []Contact {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Contact
	for _, c := range sorted(h.m.contacts) {
		v := c.view()
		v.Colour, v.Session = c.colour(), h.m.watched(c) != nil
		out = append(out, v)
	}
	return out
}

// view is what the record alone says.
func (r *contactRecord) view() Contact {
	return Contact{
		ID: r.ID, Name: r.Name, Number: numberOf(r.Number), Dialled: Dialled(r.Dialled), Known: len(r.Peer) > 0,
		Changed: r.Changed != nil, Blocked: r.Blocked, Mode: r.Mode,
	}
}

// Texts lists a conversation in the order it happened on this device. An SMS that was folded into
// its IP text is not listed by itself. [U-9]
func (h *Handset) Texts(c ContactID) []Text {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed := h.m.contacts[c] != nil && h.m.contacts[c].Changed != nil
	var out []Text
	for _, t := range sorted(h.m.texts) {
		if t.Contact == c && t.FoldedIn == 0 {
			out = append(out, t.view(changed))
		}
	}
	return out
}

// Text is one text; false if there is none with this ID.
func (h *Handset) Text(id TextID) (Text, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.m.texts[id]
	if t == nil {
		return Text{}, false
	}
	c := h.m.contacts[t.Contact]
	return t.view(c != nil && c.Changed != nil), true
}

// view is the text as the user sees it. [U-3]
func (r *textRecord) view(changed bool) Text {
	t := Text{
		ID: r.ID, Contact: r.Contact, Out: r.Out, Body: r.Body, State: r.State, Path: r.Path, Why: r.Why,
		Offers: slices.Clone(r.Offers), AlsoSMS: r.AlsoSMS, Job: r.JobState, Cancelled: r.Cancelled, At: r.At,
	}
	if r.State == SMSSent || r.State == SMSDelivered || r.Path == fallback.PathAsk {
		t.Parts = r.Parts
	}
	switch {
	case r.State == Failed:
		t.Action = CanSendAgain
	case r.State != Waiting:
		t.Action = CanDelete
	case changed:
		t.Action = CanAcceptChange
	case r.Path == fallback.PathAsk:
		t.Action = CanChoose
	default:
		t.Action = CanCancel
	}
	return t
}

// ErrNoKey reports a contact whose device is not known yet: no conversation was ever open.
var ErrNoKey = errors.New("handset: this contact's device is not known yet; it is once a conversation opens")

// SafetyNumber is 60 digits in groups of five that both sides see alike: if they compare them over
// another channel and find them equal, no one is in between. [U-5]
func (h *Handset) SafetyNumber(c ContactID) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	con := h.m.contacts[c]
	if con == nil {
		return "", ErrNoContact
	}
	if !h.m.enrolled() || len(con.Device) != 32 {
		return "", ErrNoKey
	}
	return safetyNumber(h.m.me(), h.m.ident.Cert.Device, con.peer(), wire.PublicKey(con.Device)), nil
}

// safetyNumber is SHA-256 over both (ID, device key), the smaller first, as 60 decimal digits. [U-5]
func safetyNumber(a wire.ID, ak wire.PublicKey, b wire.ID, bk wire.PublicKey) string {
	sides := []string{string(a[:]) + string(ak[:]), string(b[:]) + string(bk[:])}
	slices.Sort(sides)
	h := sha256.Sum256([]byte(sides[0] + sides[1]))
	limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(60), nil)
	digits := fmt.Sprintf("%060d", new(big.Int).Mod(new(big.Int).SetBytes(h[:]), limit))
	groups := slices.Collect(slices.Chunk([]byte(digits), 5))
	var out []string
	for _, g := range groups {
		out = append(out, string(g))
	}
	return strings.Join(out, " ")
}
