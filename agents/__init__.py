"""Who acts: policies, the driver that plays them, and the trainer that improves them."""
