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
)

// Roles lists every role.
func Roles() []Role { return []Role{RoleBroker, RoleRegistrar, RoleWorker} }

func (r Role) known() bool { return slices.Contains(Roles(), r) }

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
		return brokerPublishes(), append(subscribe, routeSubjects)
	case RoleRegistrar:
		return registrarPublishes(), append(subscribe, wire.SubjectEnrol, wire.SubjectLookup,
			wire.SubjectCheck, wire.SubjectSign, services+">")
	case RoleWorker:
		return workerPublishes(), subscribe
	}
	return nil, nil
}

func brokerPublishes() []string {
	p := []string{
		wire.SubjectEnrol, wire.SubjectLookup, routeSubjects, RoleBroker.inbox() + ".>",
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
	p = append(p, follows(wire.StreamOutcomes)...)
	return append(p, follows(kvStream+wire.BucketKeys)...)
}

func registrarPublishes() []string {
	p := []string{
		jobSubjects(wire.ClassUrgent), kvKeys + wire.BucketCounts + ".*",
		RoleBroker.inbox() + ".>", RoleWorker.inbox() + ".>", // its answers
	}
	p = append(p, reads(wire.BucketCounts)...)
	p = append(p, reads(wire.BucketKeys)...)
	return append(p, follows(kvStream+wire.BucketKeys)...)
}

func workerPublishes() []string {
	p := []string{
		wire.SubjectCheck, wire.SubjectSign, wire.OutcomeSubjects(), subjectDead + "*.*",
		kvKeys + wire.BucketJournal + ".*", kvKeys + wire.BucketKeys + "." + keyWorker,
		api + "CONSUMER.INFO." + wire.StreamJobs + ".*",
		api + "CONSUMER.MSG.NEXT." + wire.StreamJobs + ".*",
		// Both formats of an acknowledgement: the second has a domain and an account before the stream.
		"$JS.ACK." + wire.StreamJobs + ".>", "$JS.ACK.*.*." + wire.StreamJobs + ".>",
	}
	p = append(p, reads(wire.BucketJournal)...)
	return append(p, reads(wire.BucketKeys)...)
}

// reads is what reading a bucket by key needs.
func reads(bucket string) []string {
	return []string{api + "STREAM.INFO." + kvStream + bucket, api + "STREAM.MSG.GET." + kvStream + bucket}
}

// follows is what an ordered consumer of a stream needs.
func follows(stream string) []string {
	return []string{
		api + "STREAM.INFO." + stream, api + "CONSUMER.CREATE." + stream + ".>",
		api + "CONSUMER.INFO." + stream + ".*", api + "CONSUMER.MSG.NEXT." + stream + ".*",
		api + "CONSUMER.DELETE." + stream + ".*",
	}
}
