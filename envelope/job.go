package envelope

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"bluejay/wire"
)

// Shape of a job: 0x41 | worker kid 1 | class 1 | expires at u32 | enc 32 |
// HPKE(to BCD 8 | from flag 1 | [from BCD 8] | UTF-8 text), 64 bytes and the text. [S-13] [F-3]
const (
	jobHead = 1 + 1 + 1 + 4
	jobMin  = jobHead + x25519Len + 8 + 1 + 1 + tagLen
	maxJob  = jobMin + 8 + wire.MaxSMSParts*153*3

	// JobOverhead is a job's size less its text and, when From is claimed, less 8 bytes for it.
	JobOverhead = jobMin - 1
)

// Job is an SMS to be sent by the worker. It prints as "[sealed]". [F-3]
type Job struct {
	To        wire.Number
	From      wire.Number // zero: the sender claims no number
	Text      string      // at most [wire.MaxSMSParts] parts
	Class     wire.JobClass
	ExpiresAt time.Time // whole seconds, not after the worker key
}

// JobHeader is what everyone can read of a job. It is authentic only once the job opens. [F-3]
type JobHeader struct {
	KID       byte
	Class     wire.JobClass
	ExpiresAt time.Time
}

var errJob = fmt.Errorf("%w: not an SMS job", wire.ErrMalformed)

// SealJob seals a job to a worker key the caller has verified. Errors: [ErrTooLong] for too many
// parts, [wire.ErrExpired] when the job would outlive the key, [wire.ErrMalformed]. [S-13] [F-3]
func SealJob(key wire.WorkerKey, j Job) ([]byte, error) {
	expires := wire.Unix32(j.ExpiresAt)
	switch err := checkJob(j); {
	case err != nil:
		return nil, err
	case expires > key.NotAfter:
		return nil, wire.ErrExpired
	}
	head := binary.BigEndian.AppendUint32([]byte{wire.TypeJob, key.KID, byte(j.Class)}, expires)
	to, from := j.To.BCD(), j.From.BCD()
	plain := append(to[:], 0)
	if !j.From.IsZero() {
		plain[8] = 1
		plain = append(plain, from[:]...)
	}
	b, _, err := sealTo(dhkem(), key.Public[:], "bj1 fallback", head, append(plain, j.Text...))
	return b, err
}

func checkJob(j Job) error {
	if j.To.IsZero() || j.Class > wire.ClassUrgent {
		return errJob
	}
	if err := checkText(j.Text); err != nil {
		return err
	}
	if parts, _ := wire.SMSParts(j.Text); parts > wire.MaxSMSParts {
		return ErrTooLong
	}
	return nil
}

// ParseJobHeader reads the part in the clear.
func ParseJobHeader(b []byte) (JobHeader, error) {
	if len(b) < jobMin || len(b) > maxJob || b[0] != wire.TypeJob || wire.JobClass(b[2]) > wire.ClassUrgent {
		return JobHeader{}, errJob
	}
	return JobHeader{KID: b[1], Class: wire.JobClass(b[2]), ExpiresAt: wire.Time32(binary.BigEndian.Uint32(b[3:]))}, nil
}

// WorkerSecret is the SMS worker's key for about a day. It never prints. [F-2]
type WorkerSecret struct {
	hidden
	record wire.WorkerKey // unsigned
	key    hpke.PrivateKey
	secret [32]byte
}

const (
	workerVersion   = 1
	workerSecretLen = 1 + 1 + 4 + 4 + 32
)

// NewWorkerSecret makes a key; its record is yet to be signed by the root. [F-2]
func NewWorkerSecret(kid byte, notBefore, notAfter time.Time) (WorkerSecret, error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return WorkerSecret{}, err
	}
	return assembleWorker(kid, wire.Unix32(notBefore), wire.Unix32(notAfter), k)
}

func assembleWorker(kid byte, notBefore, notAfter uint32, k *ecdh.PrivateKey) (WorkerSecret, error) {
	key, err := hpke.NewDHKEMPrivateKey(k)
	if err != nil {
		return WorkerSecret{}, err
	}
	record := wire.WorkerKey{KID: kid, NotBefore: notBefore, NotAfter: notAfter, Public: [32]byte(k.PublicKey().Bytes())}
	return WorkerSecret{record: record, key: key, secret: [32]byte(k.Bytes())}, nil
}

// Key is the record to have signed. [F-2]
func (w WorkerSecret) Key() wire.WorkerKey { return w.record }

// Marshal returns 42 secret bytes: version 1 | kid 1 | not before u32 | not after u32 | secret 32.
func (w WorkerSecret) Marshal() []byte {
	b := append(make([]byte, 0, workerSecretLen), workerVersion, w.record.KID)
	b = binary.BigEndian.AppendUint32(b, w.record.NotBefore)
	b = binary.BigEndian.AppendUint32(b, w.record.NotAfter)
	return append(b, w.secret[:]...)
}

// ParseWorkerSecret reads what [WorkerSecret.Marshal] wrote.
func ParseWorkerSecret(b []byte) (WorkerSecret, error) {
	if len(b) != workerSecretLen || b[0] != workerVersion {
		return WorkerSecret{}, fmt.Errorf("%w: not a worker secret", wire.ErrMalformed)
	}
	k, err := ecdh.X25519().NewPrivateKey(b[10:])
	if err != nil {
		return WorkerSecret{}, err
	}
	return assembleWorker(b[1], binary.BigEndian.Uint32(b[2:]), binary.BigEndian.Uint32(b[6:]), k)
}

// OpenJob reads a job sealed to this key. It does not check the time, nor who sent it: From is a claim.
// Errors: [wire.ErrMalformed]; [ErrUnreadable] for another key or a damaged job. [S-13] [F-3]
func (w WorkerSecret) OpenJob(b []byte) (Job, error) {
	h, err := ParseJobHeader(b)
	if err != nil {
		return Job{}, err
	}
	if h.KID != w.record.KID {
		return Job{}, ErrUnreadable
	}
	plain, _, err := openFrom(w.key, x25519Len, "bj1 fallback", jobHead, b)
	if err != nil {
		return Job{}, err
	}
	j := Job{Class: h.Class, ExpiresAt: h.ExpiresAt}
	if err := j.parse(plain); err != nil {
		return Job{}, err
	}
	return j, nil
}

func (j *Job) parse(plain []byte) (err error) {
	if j.To, err = wire.NumberFromBCD([8]byte(plain)); err != nil {
		return err
	}
	flag, rest := plain[8], plain[9:]
	switch {
	case flag == 0:
	case flag == 1 && len(rest) > 8:
		if j.From, err = wire.NumberFromBCD([8]byte(rest)); err != nil {
			return err
		}
		rest = rest[8:]
	default:
		return errJob
	}
	j.Text = string(rest)
	return checkJob(*j)
}
