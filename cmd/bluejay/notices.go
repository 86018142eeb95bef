package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"bluejay/clients/handset"
	"bluejay/wire"
)

// maxNotice bounds the file of a notice, in bytes.
const maxNotice = 16 << 10

// notices lists the hashes of the texts that users may agree to: those in the folder the operator names, else those
// of this version. A folder without a text is an error: it would let in any.
func (c *nodeConfig) notices() ([][16]byte, error) {
	if c.Notices == "" {
		return handset.NoticeHashes(), nil
	}
	files, err := filepath.Glob(filepath.Join(c.Notices, "*.txt"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("notices: no *.txt in %s", c.Notices)
	}
	var hashes [][16]byte
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("notices: %w", err)
		}
		text := strings.TrimSpace(string(b))
		if text == "" || len(b) > maxNotice {
			return nil, errors.New("notices: " + file + " holds no text, or too much")
		}
		hashes = append(hashes, wire.NoticeHash(text))
	}
	return hashes, nil
}
