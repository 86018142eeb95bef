package registrar

import (
	"context"
	"encoding/binary"

	"bluejay/wire"
)

// HandleOff answers cause 1 ‖ number sealed: OK ‖ seq u32 once nothing goes to or from the number's ID any
// more; seq is the revocation's, 0 when nobody has enrolled with the number. The causes are the
// operator's own, and an erasure that the number's owner asked for. Codes: BadRecord, Unavailable (ask
// again). Only an operator may ask: the answer tells whether a number is enrolled. [P-7]
func (r *Registrar) HandleOff(ctx context.Context, req []byte) []byte {
	if len(req) == 0 || wire.Cause(req[0]) != wire.CauseOperator && wire.Cause(req[0]) != wire.CauseErasure {
		return answer(wire.BadRecord)
	}
	n, err := r.cfg.Secret.OpenNumber(req[1:])
	if err != nil {
		return answer(wire.BadRecord)
	}
	id, err := r.cfg.VOPRF.FullEvaluate(n)
	if err != nil {
		return answer(wire.BadRecord)
	}
	seq, code := r.revoke(ctx, id, wire.Cause(req[0]))
	if code != wire.OK {
		return answer(code)
	}
	return binary.BigEndian.AppendUint32(answer(wire.OK), seq)
}

// beginOff handles the first request of a phone that wants another number off. It counts against the
// quotas of enrolment, and the answer does not tell whether anybody has enrolled.
func (r *Registrar) beginOff(ctx context.Context, place [placeLen]byte, body []byte) wire.Code {
	q, err := r.cfg.Secret.OpenOff(body)
	if err != nil {
		return wire.BadRecord
	}
	id, err := r.cfg.VOPRF.FullEvaluate(q.Number)
	if err != nil {
		return wire.BadRecord
	}
	worker, ok := r.workerKey()
	if !ok {
		return wire.Unavailable
	}
	key := r.keyed("off", q.Nonce[:])
	return r.sendPassword(ctx, worker, key, place, q.Number, id, offText)
}

// confirmOff handles the second: the right password switches the number off, and does nothing else.
func (r *Registrar) confirmOff(ctx context.Context, body []byte) wire.Code {
	q, err := r.cfg.Secret.OpenOffConfirm(body)
	if err != nil {
		return wire.BadRecord
	}
	key := r.keyed("off", q.Nonce[:])
	a, code := r.redeem(key, q.OTP)
	if code != wire.OK {
		return code
	}
	_, code = r.revoke(ctx, a.id, wire.CausePhone)
	r.restore(key, a, code)
	return code
}
