package wire

// Code is the closed set of results a client or a peer can be given. Zero value: OK.
type Code byte

// Results. [Code.Puback] and [Code.Connack] map each to its MQTT 5 reason code. [P-20]
const (
	OK             Code = 0x00
	NoRecipient    Code = 0x01 // undeliverable: nobody has it but you
	Unreadable     Code = 0x02 // the recipient's handset cannot open it
	NotEnrolled    Code = 0x10 // no valid certificate
	NotConsented   Code = 0x11 // no current consent for this
	BadRecord      Code = 0x12 // malformed, or the signature does not verify
	StaleRecord    Code = 0x13 // seq or gen not above the stored one, or issued in the future
	OutOfTime      Code = 0x14 // expired, not yet valid, or a replayed CONNECT
	OverQuota      Code = 0x15 // too many; try later
	Unavailable    Code = 0x16 // a part of the service is down; try again
	NotAllowed     Code = 0x17 // not a topic, packet or value of this protocol
	TooLarge       Code = 0x18
	QueueFull      Code = 0x19
	WrongPassword  Code = 0x1a // one-time password wrong
	PasswordGone   Code = 0x1b // one-time password expired or its tries used up
	AlreadyHandled Code = 0x1c // too late to cancel
	TakenOver      Code = 0x1d // a newer connection of the same device
	Revoked        Code = 0x1e // consent withdrawn, or a newer certificate exists
	TooOld         Code = 0x1f // the handset is made for an older version than the operator requires
	WrongNotice    Code = 0x20 // agreed to after a text that the operator does not accept
)

// codeRow gives the reason codes MQTT 5 allows in PUBACK and in CONNACK or DISCONNECT.
type codeRow struct {
	puback, connack byte
	text            string
}

var codes = [...]codeRow{
	OK:             {0x00, 0x00, "ok"},
	NoRecipient:    {0x10, 0x80, "recipient not reachable"},
	Unreadable:     {0x83, 0x80, "recipient cannot open this text"},
	NotEnrolled:    {0x87, 0x86, "not enrolled: enrol this device first"},
	NotConsented:   {0x87, 0x87, "no consent for this: opt in first"},
	BadRecord:      {0x99, 0x99, "record malformed or badly signed"},
	StaleRecord:    {0x83, 0x83, "record not newer than the stored one"},
	OutOfTime:      {0x87, 0x87, "expired, not yet valid, or replayed: check the clock"},
	OverQuota:      {0x97, 0x97, "quota used up: try later"},
	Unavailable:    {0x80, 0x88, "service part unavailable: try again"},
	NotAllowed:     {0x87, 0x87, "not allowed in this protocol"},
	TooLarge:       {0x99, 0x95, "too large"},
	QueueFull:      {0x97, 0x97, "fallback queue full: send it from the phone"},
	WrongPassword:  {0x87, 0x86, "one-time password wrong"},
	PasswordGone:   {0x87, 0x86, "one-time password expired: ask for a new one"},
	AlreadyHandled: {0x83, 0x83, "too late: already submitted"},
	TakenOver:      {0x83, 0x8e, "another connection of this device took over"},
	Revoked:        {0x87, 0x98, "consent withdrawn or a newer device enrolled"},
	TooOld:         {0x83, 0x84, "this app is too old for the service: update it"},
	WrongNotice:    {0x83, 0x83, "not the current notice: update this app, read the notice and agree to that"},
}

func (c Code) row() codeRow {
	if c.Known() {
		return codes[c]
	}
	return codeRow{0x80, 0x80, "unknown code"}
}

// Known reports whether c is in the closed set.
func (c Code) Known() bool { return int(c) < len(codes) && codes[c].text != "" }

// Puback is the MQTT 5 PUBACK reason code that carries c. [P-20]
func (c Code) Puback() byte { return c.row().puback }

// Connack is the MQTT 5 CONNACK or DISCONNECT reason code that carries c. [P-20]
func (c Code) Connack() byte { return c.row().connack }

// String says what happened and, where there is something to do, what.
func (c Code) String() string { return c.row().text }

// Error makes a non-OK Code usable as an error.
func (c Code) Error() string { return c.String() }
