package registrar

import (
	"context"

	"bluejay/wire"
)

// Consents is the broker's store of consents, as far as the registrar may use it. [P-7]
type Consents interface {
	// Seq returns the seq of an ID's last consent record; false: the ID is not enrolled.
	Seq(ctx context.Context, id wire.ID) (seq uint32, enrolled bool, err error)
	// Revoke applies a signed revocation; OK means that nothing goes to or from the ID any more.
	Revoke(ctx context.Context, raw []byte) (wire.Code, error)
}

// HandleStop answers a number sealed by the SMS worker, whose owner said STOP, with OK once nothing goes
// to or from its ID any more, or when nobody has enrolled with it: the two look alike. Codes: BadRecord,
// Unavailable (ask again). The number is gone when the answer is given. [P-7] [F-18]
func (r *Registrar) HandleStop(ctx context.Context, req []byte) []byte {
	n, err := r.cfg.Secret.OpenNumber(req)
	if err != nil {
		return answer(wire.BadRecord)
	}
	id, err := r.cfg.VOPRF.FullEvaluate(n)
	if err != nil {
		return answer(wire.BadRecord)
	}
	_, code := r.revoke(ctx, id, wire.CauseStop)
	return answer(code)
}

// revoke signs a revocation above the stored seq and has the broker apply it; seq 0 with OK: nobody has
// enrolled. A consent record that comes in between wins the seq, so it is tried again. [P-7]
func (r *Registrar) revoke(ctx context.Context, id wire.ID, cause wire.Cause) (seq uint32, code wire.Code) {
	if r.cfg.Consents == nil {
		return 0, wire.Unavailable
	}
	for range changeTries {
		seq, enrolled, err := r.cfg.Consents.Seq(ctx, id)
		switch {
		case err != nil:
			return 0, wire.Unavailable
		case !enrolled:
			return 0, wire.OK
		}
		v := wire.Revocation{ID: id, Cause: cause, Seq: seq + 1, IssuedAt: wire.Unix32(r.cfg.Now()), KID: r.cfg.KID}
		v.Sign(r.cfg.Cert)
		code, err := r.cfg.Consents.Revoke(ctx, v.Marshal())
		switch {
		case err != nil:
			return 0, wire.Unavailable
		case code == wire.OK:
			r.log.Info("audit: revoked a consent", "cause", int(cause))
			return v.Seq, wire.OK
		case code != wire.StaleRecord:
			return 0, wire.Unavailable
		}
	}
	return 0, wire.Unavailable
}
