"""Stored settings: which ones a checkpoint passes on, which a resumed run may change."""

# These fix the shapes of the weights, or what they were trained to do.
SIZES = frozenset(
    """F_dim L_dim N_dim D_out_dim g_dim z_dim rnn_size vgg_width posterior_rnn_layers
    predictor_rnn_layers learned_prior nets scene first_frame posterior latent z_grid""".split()
)
# A checkpoint's own values of these are used at test, so that Tester.py needs none repeated.
STORED = SIZES | frozenset(
    """frame_H frame_W output_activation pose_norm position_map feedback_clamp z_source seed
    n_past n_future n_eval last_frame_skip skip_from condition""".split()
)
# These may differ when a run is resumed; any other makes it a different experiment.
MAY_CHANGE = frozenset(
    """DR save_root ckpt_path num_epoch device gpu precision num_workers per_save test resume
    val_every cache_dir store_visualization preview tensorboard wandb debug plots
    compile recompute save_every_steps keep skip_bad_frames deterministic""".split()
)
