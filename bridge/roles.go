package bridge

import (
	"slices"

	"bluejay/wire"
)

// Role is what a process is to NATS; its name is also the default user name. The zero value is no
// role.
type Role string

// Roles. Each holds a password of its own.
const (
	RoleBroker    Role = "broker"
	RoleRegistrar Role = "registrar"
	RoleWorker    Role = "worker"
	RoleOperator  Role = "operator" // no process: whoever looks after the dead letters and switches numbers off
)

// Roles lists every role that is a process, in the order of starting.
func Roles() []Role { return []Role{RoleBroker, RoleRegistrar, RoleWorker} }

func (r Role) known() bool { return r == RoleOperator || slices.Contains(Roles(), r) }

// inbox is the prefix of the subjects on which a role takes answers. Each role has its own, so that
// none can read another's.
func (r Role) inbox() string { return "_INBOX_" + string(r) }

// Subjects that exist only between a role and JetStream.
const (
	// StreamDead keeps a full copy of each job that nobody could use.
	StreamDead  = "BJ_DEAD"
	subjectDead = "bj.sms.dead."

	kvStream = "KV_"
	kvKeys   = "$KV."
	api      = "$JS.API."
	services = "$SRV."

	keyWorker = "worker" // in wire.BucketKeys
)

// Permissions returns the subjects that the server should let a role publish to and subscribe to:
// what the methods of [Bridge] need, and no more. [F-5]
//
// Only the registrar may publish urgent jobs; only a worker may have a key signed or a sender
// checked; a worker may not enrol or look up. Nobody may use JetStream's direct get, whose answer is
// the bare payload at a subject the asker names. A broker makes the streams, so it could remake them
// to its liking: the lists confine mistakes, and whoever holds a worker's or the registrar's
// password, but not a hostile broker.
func Permissions(r Role) (publish, subscribe []string) {
	subscribe = []string{r.inbox() + ".>"}
	switch r {
	case RoleBroker:
		return brokerPublishes(), append(subscribe, routeSubjects, wire.SubjectSeq, wire.SubjectRevoke, wire.SubjectKept, wire.SubjectForget, services+">")
	case RoleRegistrar:
		return registrarPublishes(), append(subscribe, wire.SubjectEnrol, wire.SubjectLookup,
			wire.SubjectCheck, wire.SubjectSign, wire.SubjectStop, wire.SubjectOff, wire.SubjectHold, wire.SubjectErase, services+">")
	case RoleWorker:
		return workerPublishes(), append(subscribe, wire.SubjectWorkerHold, wire.SubjectWorkerErase, services+">")
	case RoleOperator:
		return operatorPublishes(), append(subscribe, wire.EventSubjects(false))
	}
	return nil, nil
}

func brokerPublishes() []string {
	p := []string{
		wire.SubjectEnrol, wire.SubjectLookup, routeSubjects,
		RoleBroker.inbox() + ".>", RoleRegistrar.inbox() + ".>", // its answers
		jobSubjects(wire.ClassNormal),
		kvKeys + wire.BucketConsent + ".*", kvKeys + wire.BucketJournal + ".*",
		api + "CONSUMER.CREATE." + wire.StreamJobs + ".>",
		api + "STREAM.MSG.GET." + wire.StreamJobs, api + "STREAM.MSG.DELETE." + wire.StreamJobs,
		api + "STREAM.MSG.GET." + wire.StreamOutcomes, api + "STREAM.MSG.DELETE." + wire.StreamOutcomes,
	}
	for _, s := range streamNames() {
		p = append(p, api+"STREAM.INFO."+s, api+"STREAM.CREATE."+s, api+"STREAM.UPDATE."+s)
	}
	p = append(p, reads(wire.BucketConsent)...)
	p = append(p, reads(wire.BucketJournal)...)
	p = append(p, erases(wire.BucketConsent)...)
	p = append(p, follows(kvStream+wire.BucketJournal)...)
	p = append(p, reads(wire.BucketVoid)...)
	p = append(p, kvKeys+wire.BucketVoid+".*")
	p = append(p, api+"STREAM.MSG.GET."+wire.StreamCaps)
	for _, s := range []string{StreamDead, wire.StreamEvents} {
		p = append(p, api+"STREAM.MSG.GET."+s, api+"STREAM.MSG.DELETE."+s)
	}
	p = append(p, follows(wire.StreamOutcomes)...)
	p = append(p, follows(wire.StreamEvents)...)
	p = append(p, "$JS.ACK."+wire.StreamEvents+".>", "$JS.ACK.*.*."+wire.StreamEvents+".>")
	return append(p, follows(kvStream+wire.BucketKeys)...)
}

func registrarPublishes() []string {
	p := []string{
		jobSubjects(wire.ClassUrgent), kvKeys + wire.BucketCounts + ".*", wire.SubjectSeq, wire.SubjectRevoke,
		wire.SubjectKept, wire.SubjectForget,
		RoleBroker.inbox() + ".>", RoleWorker.inbox() + ".>", RoleOperator.inbox() + ".>", // its answers
	}
	p = append(p, erases(wire.BucketCounts)...)
	p = append(p, reads(wire.BucketCounts)...)
	p = append(p, reads(wire.BucketKeys)...)
	return append(p, follows(kvStream+wire.BucketKeys)...)
}

func workerPublishes() []string {
	p := []string{
		wire.SubjectCheck, wire.SubjectSign, wire.SubjectStop, wire.OutcomeSubjects(), subjectDead + "*.*",
		wire.EventSubjects(true), wire.EventSubjects(false), wire.CapSubject("*.*.*"), kvKeys + wire.BucketSuppressed + ".*",
		kvKeys + wire.BucketJournal + ".*", kvKeys + wire.BucketKeys + "." + keyWorker,
		RoleOperator.inbox() + ".>", // its answers
		api + "STREAM.INFO." + wire.StreamCaps, api + "STREAM.MSG.GET." + wire.StreamCaps,
		api + "CONSUMER.INFO." + wire.StreamJobs + ".*",
		api + "CONSUMER.MSG.NEXT." + wire.StreamJobs + ".*",
		// Both formats of an acknowledgement: the second has a domain and an account before the stream.
		"$JS.ACK." + wire.StreamJobs + ".>", "$JS.ACK.*.*." + wire.StreamJobs + ".>",
	}
	p = append(p, reads(wire.BucketJournal)...)
	p = append(p, reads(wire.BucketSuppressed)...)
	p = append(p, erases(wire.BucketJournal)...)
	p = append(p, erases(wire.BucketSuppressed)...)
	return append(p, reads(wire.BucketKeys)...)
}

func operatorPublishes() []string {
	p := []string{
		jobSubjects(wire.ClassNormal), jobSubjects(wire.ClassUrgent), // a dead letter, again
		api + "STREAM.INFO." + StreamDead, api + "STREAM.MSG.GET." + StreamDead, api + "STREAM.MSG.DELETE." + StreamDead,
		api + "STREAM.INFO." + wire.StreamJobs, wire.SubjectOff,
		wire.SubjectHold, wire.SubjectErase, wire.SubjectWorkerHold, wire.SubjectWorkerErase,
	}
	p = append(p, reads(wire.BucketKeys)...)
	p = append(p, reads(wire.BucketSuppressed)...)
	return append(p, kvKeys+wire.BucketSuppressed+".*")
}

// reads is what reading a bucket by key needs.
func reads(bucket string) []string {
	return []string{api + "STREAM.INFO." + kvStream + bucket, api + "STREAM.MSG.GET." + kvStream + bucket}
}

// erases is what removing keys for good needs, from reading a bucket as a whole to rewriting it.
func erases(bucket string) []string {
	return append(follows(kvStream+bucket), api+"STREAM.PURGE."+kvStream+bucket, kvKeys+bucket+"."+keyMark+".*")
}

// follows is what an ordered consumer of a stream needs.
func follows(stream string) []string {
	return []string{
		api + "STREAM.INFO." + stream, api + "CONSUMER.CREATE." + stream + ".>",
		api + "CONSUMER.INFO." + stream + ".*", api + "CONSUMER.MSG.NEXT." + stream + ".*",
		api + "CONSUMER.DELETE." + stream + ".*",
	}
}
