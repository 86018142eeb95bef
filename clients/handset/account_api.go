package handset

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"

	"bluejay/envelope"
	"bluejay/wire"
)

// Enrol asks for a one-time password by SMS to number. It makes this device's first connection
// ever, and only after the user has accepted the notice: accepted must be what [Handset.Notice]
// returned. A device that is enrolled stays so until Confirm. [U-1] [P-14]
func (h *Handset) Enrol(ctx context.Context, number wire.Number, accepted Notice) error {
	if !h.current(accepted) {
		return ErrNotice
	}
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	body, nonce, err := envelope.SealEnrol(h.cfg.Pins.RegistrarBox, number, ed25519.NewKeyFromSeed(seed))
	if err != nil {
		return fmt.Errorf("handset: enrol: %w", err)
	}
	e := &enrolment{Number: packed(number), Device: seed, Nonce: nonce[:], Notice: bytes.Clone(accepted.Hash[:])} // not the text with it
	if err := h.step(func(m *model) { m.self.Pending = e; m.saveSelf() }); err != nil {
		return err
	}
	_, err = exchange(ctx, h.cfg, body)
	return err
}

// Confirm sends the one-time password and stores the certificate, then connects with it. After
// [wire.WrongPassword] it may be called again; after [wire.PasswordGone] begin with Enrol. [P-14]
func (h *Handset) Confirm(ctx context.Context, otp string) error {
	h.mu.Lock()
	e := h.m.self.Pending
	h.mu.Unlock()
	if e == nil || len(e.Nonce) != 16 {
		return ErrNotEnrolled
	}
	device := wire.PublicKey(ed25519.NewKeyFromSeed(e.Device).Public().(ed25519.PublicKey))
	body, key, err := envelope.SealConfirm(h.cfg.Pins.RegistrarBox, otp, device, [16]byte(e.Nonce))
	if err != nil {
		return fmt.Errorf("handset: confirm: %w", err)
	}
	sealed, err := exchange(ctx, h.cfg, body)
	if err != nil {
		return err
	}
	cert, err := h.openCertificate(key, sealed, device)
	if err != nil {
		return err
	}
	if err := h.Disconnect(ctx); err != nil {
		return err
	}
	if err := h.step(func(m *model) { m.enrol(e, cert) }); err != nil {
		return err
	}
	return h.Connect(ctx)
}

// openCertificate accepts only a certificate of the pinned registrar for this device's key.
func (h *Handset) openCertificate(key envelope.AnswerKey, sealed []byte, device wire.PublicKey) (wire.Certificate, error) {
	b, err := key.Open(sealed)
	if err != nil {
		return wire.Certificate{}, fmt.Errorf("handset: confirm: %w", err)
	}
	cert, err := wire.ParseCertificate(b)
	if err == nil {
		err = cert.Verify(h.cfg.Pins.Registrar, timeNow())
	}
	if err == nil && cert.Device != device {
		err = wire.BadRecord
	}
	return cert, err
}

// exchange sends one request on e over a connection of its own, which has no identity. [P-14]
func exchange(ctx context.Context, cfg Config, body []byte) ([]byte, error) {
	arrived := make(chan struct{}, 1)
	l, err := dialLink(ctx, cfg, func([]byte) []byte { return nil }, arrived)
	if err != nil {
		return nil, err
	}
	defer l.close()
	const id = 1
	if _, err := l.publish(wire.Topic{Kind: wire.TopicEnrol}.String(), wire.Request{ID: id, Body: body}.Marshal(), false); err != nil {
		return nil, err
	}
	code := wire.Unavailable
	for {
		for m, ok := l.mail.next(); ok; m, ok = l.mail.next() {
			if m.message == nil {
				return nil, code
			}
			m.message.Ack()
			if a, err := wire.ParseAnswer(m.message.Payload()); err == nil && a.Request == id {
				return a.Body, failed(a.Code)
			}
			if n, err := wire.ParseNotice(m.message.Payload()); err == nil {
				code = n.Code
			}
		}
		select {
		case <-arrived:
		case <-l.lost:
			return nil, ErrOffline
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// failed is nil for OK.
func failed(c wire.Code) error {
	if c == wire.OK {
		return nil
	}
	return c
}

// OptIn signs what the user agrees to, sends it, and returns once the broker's receipt is verified
// and stored; then the key bundle is published if v is [wire.Listed]. Scopes replace those agreed
// to before. It connects if need be. Errors that want something of the user first: [ErrNotice] (read the new
// notice: [Handset.Accept]), [ErrReproof] (prove the number: [Handset.Enrol]). [P-6] [P-8]
func (h *Handset) OptIn(ctx context.Context, scopes wire.Scope, v wire.Visibility) error {
	if scopes == 0 {
		return wire.BadRecord
	}
	return h.consent(ctx, scopes, v)
}

// OptOut withdraws consent. It returns when the broker has acknowledged it: from then on nothing
// goes to or from this device, and it disconnects. What the user agreed to, and the receipts, are
// kept. If ctx ends before, the revocation is sent at the next connection. [C-revoke] [U-10]
func (h *Handset) OptOut(ctx context.Context) error {
	if err := h.consent(ctx, 0, wire.Unlisted); err != nil {
		return err
	}
	return h.Disconnect(ctx)
}

func (h *Handset) consent(ctx context.Context, scopes wire.Scope, v wire.Visibility) error {
	if err := h.Connect(ctx); err != nil {
		if scopes == 0 { // at the next connection, then
			err = errors.Join(err, h.step(func(m *model) { m.chooseConsent(0, v, 0) }))
		}
		return err
	}
	return h.await(ctx, func(m *model, waiter uint64) { m.chooseConsent(scopes, v, waiter) })
}

// SIMChanged is the phone's word that its SIM is another than before: perhaps the number is, too. Nothing goes to or
// from this device any more, until the number was proved anew: [Handset.Enrol], [Handset.Confirm], [Handset.OptIn]. It
// returns when the broker has stored it; if ctx ends before, the broker is told at the next connection.
func (h *Handset) SIMChanged(ctx context.Context) error {
	if err := h.step(func(m *model) { m.simChanged() }); err != nil {
		return err
	}
	if err := h.Connect(ctx); err != nil {
		return err
	}
	return h.await(ctx, func(m *model, waiter uint64) { m.tellSIM(waiter) })
}

// RotateTag moves to a new inbox, tells every contact that is not blocked, and returns when
// connected with it. A contact that misses it finds back with one hello. [P-12]
func (h *Handset) RotateTag(ctx context.Context) error {
	return h.await(ctx, func(m *model, waiter uint64) { m.rotate(waiter) })
}

// SetVisibleTo chooses whose hellos are answered from now on; nobody is told. [U-4]
func (h *Handset) SetVisibleTo(v VisibleTo) error {
	if v > Nobody {
		return wire.NotAllowed
	}
	return h.step(func(m *model) { m.self.Visible = v; m.saveSelf() })
}

// Status is what this device is, and whether it is connected.
type Status struct {
	Enrolled  bool
	Connected bool // welcomed by the broker
	On        bool // consent to messaging is in force
	ID        wire.ID
	Number    wire.Number
	Gen       uint32 // generation of the tag
	Seq       uint32 // of the newest consent record
	// Reason is why nothing goes to or from this device though its user had agreed: the broker's last word. 0: it
	// does, or the user has not agreed, or has withdrawn here. It can be shown as it prints.
	Reason wire.Reason
}

// Status returns it.
func (h *Handset) Status() Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.m
	return Status{
		Enrolled: m.enrolled(), Connected: m.link.up, On: m.self.On, ID: m.me(), Number: m.ident.Number,
		Gen: m.self.Gen, Seq: m.self.Seq, Reason: m.self.Reason,
	}
}
