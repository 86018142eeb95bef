package handset

import (
	"context"
	"errors"
	"fmt"

	"bluejay/envelope"
	"bluejay/wire"
)

// Off switches a number off from a phone that is not the one it is on: lost, broken or in other hands. It
// needs no account, no notice and no state directory, and nothing of it is stored.
type Off struct {
	cfg   Config
	nonce [16]byte
}

// ErrOff reports a request to switch off a number that is none.
var ErrOff = errors.New("handset: which number is to be switched off?")

// AskOff has a one-time password sent by SMS to the number that is to be switched off. Of c it uses Pins,
// Addr, TLS and Dial. The answer does not tell whether anybody has enrolled with the number.
func AskOff(ctx context.Context, c Config, number wire.Number) (*Off, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if number.IsZero() {
		return nil, ErrOff
	}
	body, nonce, err := envelope.SealOff(c.Pins.RegistrarBox, number)
	if err != nil {
		return nil, fmt.Errorf("handset: off: %w", err)
	}
	if _, err := exchange(ctx, c, body); err != nil {
		return nil, err
	}
	return &Off{cfg: c, nonce: nonce}, nil
}

// Confirm brings the password. A nil error means that nothing goes to or from the number's phone any more,
// as if its user had switched it off there. After [wire.WrongPassword] it may be called again, after
// [wire.PasswordGone] begin with [AskOff]. [A-4] [C-revoke]
func (o *Off) Confirm(ctx context.Context, otp string) error {
	body, err := envelope.SealOffConfirm(o.cfg.Pins.RegistrarBox, otp, o.nonce)
	if err != nil {
		return fmt.Errorf("handset: off: %w", err)
	}
	_, err = exchange(ctx, o.cfg, body)
	return err
}
