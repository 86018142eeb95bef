package consent

// NoticeVersion is the number of the newest notice. A change of one character of a text that was
// released is a new version: consent given after an older one is for that older text. [U-1] [P-6]
const NoticeVersion = 1

// Notice is a text that handsets have shown before consent was given, by its hash. The texts
// themselves are the handset's. Zero value: no notice of ours.
type Notice struct {
	Version int
	Lang    string // "en" or "zh"
	Hash    [16]byte
}

// notices lists every text ever released. A line is added, never changed.
var notices = []Notice{
	{1, "en", [16]byte{0xc1, 0x01, 0x9b, 0x70, 0x03, 0xf6, 0x41, 0x26, 0x78, 0x63, 0xc1, 0x27, 0x3c, 0x48, 0x82, 0x26}},
	{1, "zh", [16]byte{0xd8, 0x0e, 0x1c, 0x66, 0x45, 0xb4, 0x31, 0x66, 0xc0, 0x98, 0xc4, 0x0e, 0xb0, 0xa3, 0xf8, 0x05}},
}

// NoticeByHash says which released text a record is bound to; ok is false for any other text. That
// the user read it is the handset's promise, not the hash's.
func NoticeByHash(hash [16]byte) (n Notice, ok bool) {
	for _, n := range notices {
		if n.Hash == hash {
			return n, true
		}
	}
	return Notice{}, false
}

// Notices lists every text ever released, oldest first.
func Notices() []Notice { return append([]Notice(nil), notices...) }
