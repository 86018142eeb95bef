package registrar

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"bluejay/envelope"
	"bluejay/wire"
)

const (
	passwordLife  = 5 * time.Minute
	passwordTries = 5
	reproof       = 180 * day // a number is proved anew at least this often
	renewOnceIn   = day       // a renewal asked for again within this time gives the same certificate

	placeLen = 16
	renewLen = 1 + wire.CertificateLen + ed25519.SignatureSize
)

// token is a keyed hash that stands for something that must not be held.
type token [32]byte

// attempt is an enrolment under way: no number, no device key, no password.
type attempt struct {
	id       wire.ID
	password token
	tries    int
	expires  time.Time
}

type dated struct {
	key     token
	expires time.Time
}

// HandleEnrol answers address token 16 ‖ body of a request on e. The body begins with what it is:
//
//	0x61  request 1 → OK, and a password is on its way
//	0x62  request 2 → OK ‖ certificate, sealed to whoever sealed the request
//	0x63  renewal   → OK ‖ certificate
//	0x64  off from another phone, request 1 → OK, and a password is on its way
//	0x65  the same, request 2 → OK once nothing goes to or from the number's ID
//
// Codes: BadRecord, OverQuota, Unavailable; WrongPassword and PasswordGone for request 2; Revoked (a
// newer device holds the ID) and NotEnrolled (the number must be proved anew) for a renewal. The
// answer to request 1 does not tell whether the number was enrolled before. [P-14]
func (r *Registrar) HandleEnrol(ctx context.Context, req []byte) []byte {
	if len(req) <= placeLen {
		return answer(wire.BadRecord)
	}
	place, body := [placeLen]byte(req), req[placeLen:]
	switch wire.ControlKind(body[0]) {
	case wire.CtlEnrol:
		return answer(r.begin(ctx, place, body))
	case wire.CtlConfirm:
		return r.confirm(ctx, body)
	case wire.CtlRenew:
		return r.renew(ctx, body)
	case wire.CtlOff:
		return answer(r.beginOff(ctx, place, body))
	case wire.CtlOffConfirm:
		return answer(r.confirmOff(ctx, body))
	}
	return answer(wire.BadRecord)
}

// begin handles request 1. The same request again is answered the same and sends nothing.
func (r *Registrar) begin(ctx context.Context, place [placeLen]byte, body []byte) wire.Code {
	q, err := r.cfg.Secret.OpenEnrol(body)
	if err != nil {
		return wire.BadRecord
	}
	id, err := r.cfg.VOPRF.FullEvaluate(q.Number)
	if err != nil {
		return wire.BadRecord
	}
	c, _, err := r.cfg.Counts.Load(ctx, id)
	worker, ok := r.workerKey()
	switch {
	case err != nil || !ok:
		return wire.Unavailable
	case !c.mayEnrol(r.cfg.Now()):
		return wire.OverQuota
	}
	return r.sendPassword(ctx, worker, r.device(q.Device, q.Nonce), place, q.Number, id, enrolText)
}

// What the SMS with a password says: what it is good for stands before anything else could be done with it.
const (
	enrolText = "Bluejay code %s. If you did not ask, ignore this."
	offText   = "Bluejay code %s switches Bluejay off for this number. If you did not ask, ignore this."
)

// sendPassword holds an attempt and sends its password, unless it is held already.
func (r *Registrar) sendPassword(ctx context.Context, worker wire.WorkerKey, key token, place [placeLen]byte, n wire.Number, id wire.ID, text string) wire.Code {
	otp := newPassword()
	code, fresh := r.admit(key, place, n, attempt{id: id, password: r.keyed("otp", key[:], []byte(otp))})
	if !fresh {
		return code
	}
	if err := r.send(ctx, worker, n, fmt.Sprintf(text, otp)); err != nil {
		r.forget(key)
		return wire.Unavailable
	}
	return wire.OK
}

// device stands for a device key and the nonce of one enrolment: a password is good for both only.
func (r *Registrar) device(d wire.PublicKey, nonce [16]byte) token {
	return r.keyed("device", d[:], nonce[:])
}

func newPassword() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return fmt.Sprintf("%06d", binary.BigEndian.Uint64(b[:])%1_000_000)
}

// admit holds an attempt, if the quotas allow it. fresh is false when nothing is to be sent: it was
// refused, or is held already.
func (r *Registrar) admit(key token, place [placeLen]byte, n wire.Number, a attempt) (code wire.Code, fresh bool) {
	now := r.cfg.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep(now)
	if r.pending[key] != nil {
		return wire.OK, false
	}
	if len(r.order) >= r.cfg.Quotas.Pending {
		return wire.Unavailable, false
	}
	bcd := n.BCD()
	number, where := r.keyed("number", bcd[:]), r.keyed("place", place[:])
	if !r.places.has(now, where) || !r.daily.has(now, number) || !r.hourly.has(now, number) {
		return wire.OverQuota, false
	}
	r.places.take(where)
	r.daily.take(number)
	r.hourly.take(number)
	a.expires = now.Add(passwordLife)
	r.pending[key] = &a
	r.order = append(r.order, dated{key, a.expires})
	return wire.OK, true
}

// sweep forgets what has expired; all attempts live equally long, so the oldest come first.
func (r *Registrar) sweep(now time.Time) {
	for len(r.order) > 0 && !r.order[0].expires.After(now) {
		key := r.order[0].key
		if a := r.pending[key]; a != nil && !a.expires.After(now) {
			delete(r.pending, key)
		}
		r.order = r.order[1:]
	}
}

func (r *Registrar) forget(key token) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, key)
}

func (r *Registrar) workerKey() (wire.WorkerKey, bool) {
	k, ok := r.cfg.WorkerKey()
	return k, ok && k.Verify(r.root, r.cfg.Now()) == nil
}

func (r *Registrar) send(ctx context.Context, worker wire.WorkerKey, to wire.Number, text string) error {
	expires := r.cfg.Now().Add(passwordLife)
	if end := wire.Time32(worker.NotAfter); expires.After(end) {
		expires = end
	}
	job, err := envelope.SealJob(worker, envelope.Job{
		To: to, Text: text, Class: wire.ClassUrgent, ExpiresAt: expires,
	})
	if err != nil {
		return err
	}
	return r.cfg.Jobs.PublishUrgent(ctx, job)
}

// confirm handles request 2.
func (r *Registrar) confirm(ctx context.Context, body []byte) []byte {
	q, seal, err := r.cfg.Secret.OpenConfirm(body)
	if err != nil {
		return answer(wire.BadRecord)
	}
	key := r.device(q.Device, q.Nonce)
	a, code := r.redeem(key, q.OTP)
	if code != wire.OK {
		return answer(code)
	}
	c, code := r.change(ctx, a.id, func(c *Count) wire.Code {
		if !c.mayEnrol(r.cfg.Now()) {
			return wire.OverQuota
		}
		c.enrol(deviceHash(q.Device), r.cfg.Now())
		return wire.OK
	})
	if code != wire.OK {
		r.restore(key, a, code)
		return answer(code)
	}
	return answer(wire.OK, seal.Seal(r.certify(a.id, q.Device, c))...)
}

// redeem takes the attempt away when the password is right, so that it is good for one certificate.
func (r *Registrar) redeem(key token, otp string) (*attempt, wire.Code) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep(r.cfg.Now())
	a := r.pending[key]
	if a == nil {
		return nil, wire.PasswordGone
	}
	given := r.keyed("otp", key[:], []byte(otp))
	if subtle.ConstantTimeCompare(given[:], a.password[:]) == 1 {
		delete(r.pending, key)
		return a, wire.OK
	}
	if a.tries++; a.tries >= passwordTries {
		delete(r.pending, key)
		return nil, wire.PasswordGone
	}
	return nil, wire.WrongPassword
}

// restore lets the same password be used again when the store was out of reach.
func (r *Registrar) restore(key token, a *attempt, code wire.Code) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if code == wire.Unavailable && a.expires.After(r.cfg.Now()) {
		r.pending[key] = a
	}
}

func deviceHash(d wire.PublicKey) [16]byte {
	h := sha256.Sum256(d[:])
	return [16]byte(h[:16])
}

// certify signs what c says; the same c gives the same bytes. No certificate outlives the proof of
// the number by more than 180 days.
func (r *Registrar) certify(id wire.ID, d wire.PublicKey, c Count) []byte {
	end := time.Unix(int64(c.Enrolments[0])*int64(day/time.Second), 0).Add(reproof)
	life := min(r.cfg.CertLifetime, end.Sub(wire.Time32(c.Issued)))
	cert := wire.Certificate{
		ID: id, Device: d, IssuedAt: c.Issued, LifetimeHours: uint16(max(life, 0) / time.Hour), KID: r.cfg.KID,
	}
	cert.Sign(r.cfg.Cert)
	r.log.Info("audit: signed a certificate", "kid", r.cfg.KID, "hours", cert.LifetimeHours)
	return cert.Marshal()
}

// renewSigned is what the device signs to renew a certificate. It names no time: whoever replays it
// gets a certificate that only this device can use.
func renewSigned(cert []byte) []byte { return wire.LP("bj1 renew", cert) }

// renew handles 0x63 | certificate 116 | sig 64. The certificate may have expired; the device must be
// the last one enrolled. [P-14]
func (r *Registrar) renew(ctx context.Context, body []byte) []byte {
	if len(body) != renewLen {
		return answer(wire.BadRecord)
	}
	raw, sig := body[1:1+wire.CertificateLen], body[1+wire.CertificateLen:]
	old, err := wire.ParseCertificate(raw)
	if err != nil {
		return answer(wire.BadRecord)
	}
	now := r.cfg.Now()
	if err := old.Verify(r.certs, now); err != nil && !errors.Is(err, wire.ErrExpired) {
		return answer(wire.BadRecord)
	}
	if !ed25519.Verify(old.Device[:], renewSigned(raw), sig) {
		return answer(wire.BadRecord)
	}
	c, code := r.change(ctx, old.ID, func(c *Count) wire.Code { return c.renew(deviceHash(old.Device), now) })
	if code != wire.OK {
		return answer(code)
	}
	return answer(wire.OK, r.certify(old.ID, old.Device, c)...)
}

// renew moves the newest certificate's time forward, at most once a day.
func (c *Count) renew(device [16]byte, now time.Time) wire.Code {
	switch {
	case c.Device != device:
		return wire.Revoked
	case epoch(now) >= c.Enrolments[0]+Epoch(reproof/day):
		return wire.NotEnrolled
	case now.Sub(wire.Time32(c.Issued)) >= renewOnceIn:
		c.issue(now)
	}
	return wire.OK
}

// meter counts uses of each key within a span of time, for a bounded number of keys.
type meter struct {
	span  time.Duration
	limit int
	since time.Time
	used  map[token]int
}

// meterKeys bounds a meter's memory, at about 6 MB. When so many have been seen within one span,
// those not seen yet wait for the next.
const meterKeys = 64 << 10

func newMeter(span time.Duration, limit int) meter {
	return meter{span: span, limit: limit, used: map[token]int{}}
}

// has reports whether one more use of key is allowed.
func (m *meter) has(now time.Time, key token) bool {
	if now.Sub(m.since) >= m.span {
		m.since = now
		clear(m.used)
	}
	n, seen := m.used[key]
	return n < m.limit && (seen || len(m.used) < meterKeys)
}

func (m *meter) take(key token) { m.used[key]++ }
